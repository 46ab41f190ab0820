import numpy as np

from lipctrl import plots

# Medians over three seeds, as `python -m tests.benchmarks depth_decay` printed them.
DEPTHS = np.array([4, 16, 64, 128])
RMS = {
    "lossless": [0.0713, 0.0380, 0.0470, 0.0527],
    "sandwich": [0.0841, 0.0828, 0.2852, 0.2852],
    "sll": [0.1584, 0.1063, 0.0811, 0.2853],
}
series = {name: plots.SizeSeries(DEPTHS, np.array(rms)[:, None]) for name, rms in RMS.items()}
ax = plots.size_plot(series, quantity="test error after training [rms]", size="depth [blocks]", log=False)
ax.set_ylim(0.0, 0.3)
