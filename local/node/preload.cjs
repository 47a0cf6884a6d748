"use strict";
// Loaded before a Node program of the local stack (`node --require`). Neither program can be told all of this:
// - it listens on 127.0.0.1 alone, whatever address it asks for;
// - it connects to this machine alone, so that no telemetry leaves;
// - Azurite does not stand still while it forgets what was on its queues, and reads one partition where one is asked for;
// - it ends, the graceful way, when its standard input (a pipe) closes: also when its parent was killed, on every system.

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");

// Milliseconds that a program may take to end by itself.
const GRACE = 8000;
const LOOPBACK = "127.0.0.1";

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const [first] = args;
  if (typeof first === "object" && first !== null) {
    // A handle, a file descriptor or the path of a pipe has no address to choose.
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
  // net.connect and tls.connect hand over the arguments as one normalized array.
  const [first, second] = Array.isArray(args[0]) ? args[0] : args;
  const host = typeof first === "object" && first !== null ? first.host : typeof second === "string" ? second : undefined;
  if (!isLoopback(host)) {
    process.stderr.write(`Refused to connect to ${host}: only this machine may be reached\n`);
    process.nextTick(() => this.destroy(new Error(`connect refused: ${host} is not loopback`)));
    return this;
  }
  return connect.apply(this, args);
};

// Each minute Azurite lets go of the messages that were taken, one by one, and for each of them LokiJS goes through
// all: after 5,000 messages nothing was answered for a quarter of a minute. And with each message that is taken or
// deleted Azurite removes those that have expired, where LokiJS sorts all anew although there is none; and so it does
// after each receipt, for those that were taken: with 10,000 messages that takes 20 ms.
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

// A query of one partition goes through all rows of the table, where Azure reads that partition: of 30,000 rows that takes
// 12 ms. Its own index finds the partition first. A filter with an "or" of its own may mean rows of others.
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
    const getEntityCollection = (...asked) => {
      const rows = this.getEntityCollection(...asked);
      return { chain: () => rows.chain().find({ PartitionKey: partition.replaceAll("''", "'") }) };
    };
    const narrow = Object.create(this, { getEntityCollection: { value: getEntityCollection } });
    return query.call(narrow, context, account, table, options, ...from);
  };
}

let ending = false;
function end() {
  if (ending) {
    return;
  }
  ending = true;
  setTimeout(() => process.exit(1), GRACE).unref();
  if (!process.emit("SIGTERM") && !process.emit("SIGINT")) {
    process.exit(0);
  }
}
// Reading the pipe must not keep a program alive that has ended by itself.
process.stdin.on("end", end).on("error", end).resume();
process.stdin.unref();
