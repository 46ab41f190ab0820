import control

from lipctrl import IncrementalBall
from lipctrl.analysis import incremental_delay_margin

plant = control.tf([25], [1, 10, 10, 10])
margin = incremental_delay_margin(plant, IncrementalBall(center=[[-1.0]], radius=0.1))
ax = margin.simulate().plot()
