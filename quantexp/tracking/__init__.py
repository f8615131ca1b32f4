"""Runs in MLflow. The only package that imports it.

It takes figures and folders of files, and returns plain facts of runs and folders with their files; it renders nothing
and reads no report.

Everything uses a client and an experiment id: MLflow's fluent API records runs in the active experiment, and when two
processes create an experiment at the same moment, one of them silently stays in "Default".
"""
