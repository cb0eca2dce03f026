// Reads the log of an image build like Gitpod's server, with @improbable-eng/grpc-web: it gets the
// list of tasks, listens to the first one, and writes its output to stdout. The exit code is the code
// of the failed call.
//
//   node logs.js websocket|http URL HEADERS_AS_JSON
"use strict";
const path = require("path");
const protobuf = require("protobufjs");
const { grpc } = require("@improbable-eng/grpc-web");
const { NodeHttpTransport } = require("@improbable-eng/grpc-web-node-http-transport");
globalThis.WebSocket = require("ws");

const [kind, url, headers] = process.argv.slice(2);
const root = protobuf.loadSync(path.join(__dirname, "supervisor.proto"));

// Returns a message class for grpc-web.
const messages = (name) => {
  const type = root.lookupType("supervisor." + name);
  return class {
    constructor(value) { this.value = value; }
    serializeBinary() { return type.encode(type.create(this.value)).finish(); }
    toObject() { return this.value; }
    static deserializeBinary(bytes) { return new this(type.toObject(type.decode(bytes), { enums: String, bytes: Buffer })); }
  };
};
const method = (service, name, request, response) => ({
  methodName: name,
  service: { serviceName: "supervisor." + service },
  requestStream: false, responseStream: true,
  requestType: messages(request), responseType: messages(response),
});
const tasksStatus = method("StatusService", "TasksStatus", "TasksStatusRequest", "TasksStatusResponse");
const listen = method("TaskService", "ListenToOutput", "ListenToOutputRequest", "ListenToOutputResponse");

const call = (how, value, onMessage) => new Promise((resolve, reject) => {
  const c = grpc.client(how, { host: url + "/_supervisor/v1", transport: kind === "http" ? NodeHttpTransport() : grpc.WebsocketTransport() });
  let over = false;
  c.onMessage((m) => { if (onMessage(m.value) && !over) { over = true; c.close(); resolve(); } });
  c.onEnd((code, message) => {
    if (over) return;
    over = true;
    code === grpc.Code.OK ? resolve() : reject({ code, message });
  });
  c.start(new grpc.Metadata(JSON.parse(headers)));
  c.send(new how.requestType(value));
  c.finishSend();
});

(async () => {
  let task;
  await call(tasksStatus, { observe: true }, (m) => {
    const first = (m.tasks || [])[0];
    if (!first || !first.terminal) return false;
    task = first.id;
    return true;
  });
  await call(listen, { taskId: task }, (m) => { process.stdout.write(m.data || Buffer.alloc(0)); });
})().then(() => { process.exitCode = 0; }, (err) => {
  process.stderr.write(`${err.code}: ${err.message || err.stack || err}\n`);
  process.exitCode = Number.isInteger(err.code) ? err.code : 2;
});
