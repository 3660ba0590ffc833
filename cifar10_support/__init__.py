"""Everything around a graph that is not the graph. Skip this folder on your first reading.

  console      flags, --help, one-line errors, progress
  settings     the flags that several scripts share, and how flags set the constants of `cifar10`;
               hyperparameters: those of training, such as --momentum
  tf_setup     graph mode, session settings, devices, bfloat16, TensorFlow's errors in plain words;
               quiet: importing TensorFlow without its chatter
  dataset      find, verify or download a data set; synthetic: a generated stand-in for CIFAR-10
  pictures     picture files of any format, as central squares
  files        one process at a time in a folder; files that appear whole or not at all
  runs         a run's directory and its run.json
  freezing     layers that training leaves as they are
  checkpoints  which is the latest intact one, does it fit; evaluation: evaluation's side of that
  best         the best checkpoint of a run: --keep_best and --patience
  training     `training_session`: log, checkpoints, summaries, stopping; signals: Ctrl-C that saves
  summaries    histograms of a sample, a picture of filters; tabs: TensorBoard's HParams, Projector
  report       what an evaluation shows: curves, confusion matrix, mistakes
"""
