"""Records in MLflow. The only package that imports it.

Everything goes through a client and an experiment id: the fluent API files runs under whatever
experiment happens to be active, and creating an experiment that another process creates at the same
moment leaves "Default" active without a word.
"""
