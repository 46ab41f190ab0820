from lipctrl import plots

# What lipctrl.plots.SweepPoint holds for each run of `lipctrl sweep`; SweepResult.points() returns them.
points = [
    plots.SweepPoint(-162.0, 1.2, "lossless", "L = 8"),
    plots.SweepPoint(-171.0, 1.9, "lossless", "L = 5"),
    plots.SweepPoint(-190.0, 3.3, "lossless", "L = 3"),
    plots.SweepPoint(-176.0, 1.2, "sandwich", "L = 8"),
    plots.SweepPoint(-183.0, 1.9, "sandwich", "L = 5"),
    plots.SweepPoint(-230.0, 3.3, "gershgorin", "L = 3"),
]
ax = plots.pareto_plot(points)
