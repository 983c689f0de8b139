"""Work that is shared among the workers of a Ray cluster, or of one machine.

The driver cuts the work into tasks that are plain data; each worker loads the model once and runs
the same code as a single process does; what is done stands in files that exist whole or not at
all.  So a task may be computed twice, when a worker or the driver dies, and still counts once.

:func:`armorm.scaling.features.ray_extraction`, :func:`armorm.scaling.scoring.score_with_ray` and
:class:`armorm.scaling.pool.Workers` are what others use.
"""
