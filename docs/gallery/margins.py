import control

from lipctrl import IncrementalBall, plots

plant = control.tf([1], [0.1, 0.9, -1])
ball = IncrementalBall(center=[[-3.0]], radius=1.0)
ax = plots.gain_sweep_plot(plots.gain_sweep(plant, ball))
