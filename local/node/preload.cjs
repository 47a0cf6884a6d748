"use strict";
// Loaded before a Node program of the local stack (`node --require`), because the programs have no options for this:
// - listen only on 127.0.0.1, whatever address the program requests;
// - connect only to this machine, so that no telemetry is sent;
// - let Azurite delete messages without blocking, and query a single partition without reading the whole table;
// - stop gracefully when the standard input (a pipe) closes, which includes the death of the parent, on every system.

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");

// How long a program may take to stop.
const STOP_MILLISECONDS = 8000;
const LOOPBACK = "127.0.0.1";

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const [first] = args;
  if (typeof first === "object" && first !== null) {
    // A handle, a file descriptor or the path of a pipe has no address.
    if (first._handle === undefined && first.fd === undefined && first.path === undefined) {
      args[0] = { ...first, host: LOOPBACK };
    }
    return listen.apply(this, args);
  }
  if (typeof first === "string" && !/^\d+$/.test(first)) {
    return listen.apply(this, args);
  }
  const options = { port: typeof first === "function" || first === undefined ? 0 : Number(first), host: LOOPBACK };
  const backlog = args.slice(1).find((arg) => typeof arg === "number");
  const callback = args.find((arg) => typeof arg === "function");
  return listen.call(this, backlog === undefined ? options : { ...options, backlog }, ...(callback ? [callback] : []));
};

function isLoopback(host) {
  return !host || host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  // net.connect and tls.connect pass the arguments as one normalized array.
  const [first, second] = Array.isArray(args[0]) ? args[0] : args;
  const host = typeof first === "object" && first !== null ? first.host : typeof second === "string" ? second : undefined;
  if (!isLoopback(host)) {
    process.stderr.write(`Refused to connect to ${host}: only connections to this machine are allowed\n`);
    process.nextTick(() => this.destroy(new Error(`connect refused: ${host} is not loopback`)));
    return this;
  }
  return connect.apply(this, args);
};

// Each minute, Azurite removes deleted messages one by one, and for each of them LokiJS scans all messages: with 5,000
// messages, Azurite did not respond for 15 seconds. With each received or deleted message, Azurite also removes expired
// messages, for which LokiJS sorts all messages even if none has expired; the same happens when received messages are
// updated. With 10,000 messages, this takes 20 ms each time.
const program = process.argv[1] ?? "";
if (/[\\/]azurite[\\/]/.test(program)) {
  const { prototype } = require(require.resolve("lokijs", { paths: [program] })).Collection;
  prototype.findAndRemove = function (filter) {
    for (const found of this.find(filter)) {
      this.remove(found);
    }
  };
  const update = prototype.update;
  prototype.update = function (doc) {
    if (!Array.isArray(doc)) {
      return update.call(this, doc);
    }
    for (const each of doc) {
      update.call(this, each);
    }
  };
  const removeBatch = prototype.removeBatch;
  prototype.removeBatch = function (batch) {
    if (batch.length > 0) {
      removeBatch.call(this, batch);
    }
  };
}

// A query of one partition scans all rows of the table, which takes 12 ms with 30,000 rows; Azure reads only the partition.
// The index of LokiJS finds the partition first. A filter with a top-level "or" may match rows of other partitions.
const store = path.join(path.dirname(program), "table", "persistence", "LokiTableMetadataStore.js");
if (/[\\/]azurite[\\/]/.test(program) && fs.existsSync(store)) {
  const { prototype } = require(store).default;
  const query = prototype.queryTableEntities;
  prototype.queryTableEntities = function (context, account, table, options, ...from) {
    const filter = options?.filter ?? "";
    const [, partition] = /^PartitionKey eq '((?:[^']|'')*)'(?= and |$)/.exec(filter) ?? [];
    const bare = filter.replace(/'(?:[^']|'')*'/g, "").replace(/\([^()]*\)/g, "");
    if (partition === undefined || /\bor\b/.test(bare)) {
      return query.call(this, context, account, table, options, ...from);
    }
    const getEntityCollection = (...args) => {
      const rows = this.getEntityCollection(...args);
      return { chain: () => rows.chain().find({ PartitionKey: partition.replaceAll("''", "'") }) };
    };
    const narrow = Object.create(this, { getEntityCollection: { value: getEntityCollection } });
    return query.call(narrow, context, account, table, options, ...from);
  };
}

let stopping = false;
function stop() {
  if (stopping) {
    return;
  }
  stopping = true;
  setTimeout(() => process.exit(1), STOP_MILLISECONDS).unref();
  if (!process.emit("SIGTERM") && !process.emit("SIGINT")) {
    process.exit(0);
  }
}
// Reading the pipe must not keep a finished program alive.
process.stdin.on("end", stop).on("error", stop).resume();
process.stdin.unref();
