// Classifies images with the converted network, in Node: see deployed.py.
//
//   node benchmarks/deployed.js MODEL PIXELS PROBABILITIES N HEIGHT WIDTH CHANNELS
//
// PIXELS is a file of bytes; PROBABILITIES, to be written, one of 32-bit floats.

const fs = require('fs');
const path = require('path');

const tf = require('@tensorflow/tfjs-core');
const {loadGraphModel} = require('@tensorflow/tfjs-converter');
require('@tensorflow/tfjs-backend-wasm');

// In a browser it is `loadGraphModel('model.json')`; in Node without its C++ package, files need
// a loader.
function load(folder) {
  const model = JSON.parse(fs.readFileSync(path.join(folder, 'model.json')));
  const weights = model.weightsManifest.flatMap(group => group.weights);
  const files = model.weightsManifest.flatMap(group => group.paths);
  const data = Buffer.concat(files.map(name => fs.readFileSync(path.join(folder, name))));
  return loadGraphModel({load: () => ({
    ...model, weightSpecs: weights, weightData: new Uint8Array(data).buffer})});
}

async function main(folder, pixels, probabilities, ...shape) {
  await tf.setBackend('wasm');
  const model = await load(folder);
  const images = tf.tensor(fs.readFileSync(pixels), shape.map(Number), 'int32');
  fs.writeFileSync(probabilities, await model.predict(images).data());
}

main(...process.argv.slice(2));
