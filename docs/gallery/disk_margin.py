import control

from lipctrl import IncrementalBall, disk_margin, plots
from lipctrl.analysis import incremental_disk_margin

s = control.tf("s")
drives = control.append(control.ss(2 / (s * (s + 1))), control.ss(20 / (s * (s + 4))))
K = [[1.0, 0.6], [-0.6, 1.0]]  # u = -K y
policies = IncrementalBall(center=[[-1.0, -0.6], [0.6, -1.0]], radius=0.2)

figure, axes = plots.subplots(1, 2)
plots.disk_margin_plot(disk_margin(K, drives), ax=axes[0, 0], title="The gain K")
plots.disk_margin_plot(incremental_disk_margin(drives, policies), ax=axes[0, 1], title="A ball around K")
