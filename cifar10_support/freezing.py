"""Layers that training leaves as they are: --freeze names their scopes."""

from cifar10_support.console import UserError
from cifar10_support.quiet import tf


def variables_to_train(frozen):
  """Returns the trainable variables outside some scopes; a `UserError` if none is left."""
  variables = tf.trainable_variables()
  for scope in frozen:
    if not any(variable.op.name.startswith(f'{scope}/') for variable in variables):
      scopes = dict.fromkeys(variable.op.name.split('/')[0] for variable in variables)
      raise UserError(f'--freeze={scope}: this network has no variables in such a scope. It has '
                      f"{', '.join(scopes)}.")
  learning = [variable for variable in variables if not _is_in(frozen, variable.op.name)]
  if not learning:
    raise UserError('--freeze leaves no variable to train.')
  return learning


def update_ops(frozen, without_tower=str):
  """Returns the ops of `tf.GraphKeys.UPDATE_OPS` outside some scopes."""
  return [op for op in tf.get_collection(tf.GraphKeys.UPDATE_OPS)
          if not _is_in(frozen, without_tower(op.name))]


def _is_in(scopes, name):
  return name.startswith(tuple(f'{scope}/' for scope in scopes))
