// Calls one method of builder.ImageBuilder with @grpc/grpc-js and the messages of builder.proto. It
// prints each response as a line of JSON, and at the end {"code": number, "details": text}.
//
//   node grpc.js ADDRESS METHOD REQUEST_AS_JSON
"use strict";
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, method, request] = process.argv.slice(2);
const loaded = loader.loadSync(path.join(__dirname, "builder.proto"), { keepCase: true, longs: Number, enums: String, bytes: String, oneofs: true });
const { ImageBuilder } = grpc.loadPackageDefinition(loaded).builder;
const client = new ImageBuilder(address, grpc.credentials.createInsecure());
const line = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const end = (err) => {
  line({ code: err ? err.code : 0, details: err ? err.details : "" });
  client.close();
};

if (ImageBuilder.service[method].responseStream) {
  const stream = client[method](JSON.parse(request));
  stream.on("data", line);
  stream.on("error", end);
  stream.on("end", () => end());
} else {
  client[method](JSON.parse(request), (err, response) => {
    if (!err) line(response);
    end(err);
  });
}
