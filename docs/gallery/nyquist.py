import control

from lipctrl import IncrementalBall, plots

plant = control.tf([1], [0.1, 0.9, -1])  # one unstable pole
ball = IncrementalBall(center=[[-3.0]], radius=1.5)  # u = -3y + φ(y), φ with gain 1.5
ax = plots.nyquist_plot(plots.loop_response(plant, ball))
