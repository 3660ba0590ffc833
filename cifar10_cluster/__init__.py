"""Training on many machines: `python -m cifar10_cluster` on each, see docs/scaling.md.

  __main__          what each kind of task does
  tf_config         the cluster that the environment variable TF_CONFIG describes
  parameter_server  holds the variables, and the board on which the tasks say how they are
  replica           the chief and the workers: computes gradients, in rounds that keep all in step
"""
