// Calls a target over and over with grpc-js, and prints how each call ended; grpc_caller.py says more.

const grpc = require("@grpc/grpc-js");
require("@grpc/grpc-js-xds").register();

const CALLERS = 2;
const PAUSE_MS = 5;
const DEADLINE_MS = 20_000;

const [target, path] = process.argv.slice(2);
const client = new grpc.Client(target, grpc.credentials.createInsecure());
const same = (bytes) => bytes;

function run() {
  const began = process.hrtime.bigint();
  const deadline = new Date(Date.now() + DEADLINE_MS);
  client.makeUnaryRequest(path, same, same, Buffer.alloc(0), { deadline }, (error, answer) => {
    const ended = error ? { failure: `${grpc.status[error.code]} ${error.details}` } : { answer: answer.toString() };
    ended.seconds = Number(process.hrtime.bigint() - began) / 1e9;
    process.stdout.write(JSON.stringify(ended) + "\n");
    setTimeout(run, PAUSE_MS);
  });
}

for (let caller = 0; caller < CALLERS; caller++) {
  run();
}
