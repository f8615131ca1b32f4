"""Runs in MLflow. The only package that imports it.

It is handed figures and folders of files, and hands out plain facts of runs and folders with the files that they
stored; it renders nothing and reads no report.

Everything goes through a client and an experiment id: MLflow's fluent API files runs under whatever experiment is
active, and when two processes create an experiment at the same moment, one of them silently stays in "Default".
"""
