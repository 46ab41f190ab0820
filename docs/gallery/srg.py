import control

from lipctrl import plots
from lipctrl.analysis.srg import scaled_relative_graphs

plant = control.tf([1.5], [1, 1.2, 1])
ax = plots.srg_plot(scaled_relative_graphs(plant, (0.3, 1.2)))
