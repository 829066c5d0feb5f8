// Files and batches from upload to deletion, the way a user of openai-node works with them.
// `node lifecycle.mjs BASE_URL DIRECTORY` prints one JSON object for each step.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import OpenAI, { toFile } from "openai";
import { VERSION } from "openai/version";

const [baseURL, directory] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any" });

const CHAT = "/v1/chat/completions";
const ENDED = ["completed", "failed", "expired", "cancelled"];

function line(id, body = {}) {
  const messages = [{ role: "user", content: `say ${id}` }];
  const whole = { model: "test-model", messages, ...body };
  return JSON.stringify({ custom_id: id, method: "POST", url: CHAT, body: whole }) + "\n";
}

async function upload(content, purpose = "batch") {
  return client.files.create({ file: await toFile(Buffer.from(content), "in.jsonl"), purpose });
}

async function create(content, more = {}) {
  const file = await upload(content);
  const given = { input_file_id: file.id, endpoint: CHAT, completion_window: "24h", ...more };
  return client.batches.create(given);
}

async function until(batch, done, limit = 10_000) {
  const end = Date.now() + limit;
  while (!done(batch)) {
    assert.ok(!ENDED.includes(batch.status), `it ended as ${batch.status}`);
    assert.ok(Date.now() < end, `still ${batch.status}`);
    await new Promise((resume) => setTimeout(resume, 20));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

const reach = (batch, status) => until(batch, (now) => now.status === status);

async function results(fileId) {
  const text = await (await client.files.content(fileId)).text();
  const lines = text.trimEnd().split("\n").map((written) => JSON.parse(written));
  return Object.fromEntries(lines.map((entry) => [entry.custom_id, entry]));
}

async function collect(pages, limit = Infinity) {
  const met = [];
  for await (const thing of pages) {
    met.push(thing.id);
    if (met.length === limit) break;
  }
  return met;
}

const steps = {
  async upload_a_stream() {
    const name = path.join(directory, "streamed.jsonl");
    const content = line("a").repeat(5000);
    fs.writeFileSync(name, content);
    const file = await client.files.create({ file: fs.createReadStream(name), purpose: "batch" });
    assert.equal(file.filename, "streamed.jsonl");
    assert.equal(file.bytes, content.length);
    assert.deepEqual(await client.files.retrieve(file.id), file);
  },

  async upload_bytes_with_an_expiry() {
    const file = await client.files.create({
      file: await toFile(Buffer.from(line("a")), "bytes.jsonl"),
      purpose: "batch",
      expires_after: { anchor: "created_at", seconds: 3600 },
    });
    assert.equal(file.expires_at, file.created_at + 3600);
  },

  async wait_for_processing_returns_at_once() {
    const file = await upload(line("a"));
    assert.equal((await client.files.waitForProcessing(file.id)).status, "processed");
  },

  async content_as_text_bytes_stream_and_range() {
    const content = line("höhe").repeat(2000);
    const { id } = await upload(content);
    assert.equal(await (await client.files.content(id)).text(), content);
    const bytes = Buffer.from(await (await client.files.content(id)).arrayBuffer());
    assert.ok(bytes.equals(Buffer.from(content)));
    const pieces = [];
    for await (const piece of (await client.files.content(id)).body) pieces.push(piece);
    assert.ok(Buffer.concat(pieces).equals(bytes));
    const part = await client.files.content(id, { headers: { Range: "bytes=10-19" } });
    assert.equal(part.status, 206);
    assert.equal(await part.text(), bytes.subarray(10, 20).toString());
  },

  async list_files_one_by_one_while_deleting_them() {
    const made = [];
    for (let count = 0; count < 5; count++) made.push((await upload("x", "user_data")).id);
    const met = [];
    for await (const file of client.files.list({ limit: 1, purpose: "user_data" })) {
      met.push(file.id);
      assert.equal((await client.files.delete(file.id)).deleted, true);
    }
    assert.deepEqual(met, made.reverse());
    await assert.rejects(client.files.retrieve(met[0]), OpenAI.NotFoundError);
    await assert.rejects(client.files.delete(met[0]), OpenAI.NotFoundError);
  },

  async a_batch_from_create_to_its_results() {
    let batch = await create(line("good") + line("bad", { behave: "400" }), {
      metadata: { job: "nightly" },
    });
    assert.equal(batch.status, "validating");
    assert.deepEqual(batch.metadata, { job: "nightly" });
    batch = await reach(batch, "completed");
    assert.deepEqual(batch.request_counts, { total: 2, completed: 1, failed: 1 });
    const good = await results(batch.output_file_id);
    assert.equal(good.good.response.body.choices[0].message.content, "say good");
    assert.equal((await results(batch.error_file_id)).bad.response.status_code, 400);
  },

  async list_batches_one_by_one() {
    const made = [];
    for (let count = 0; count < 3; count++) made.push((await create(line("a"))).id);
    assert.deepEqual(await collect(client.batches.list({ limit: 1 }), 3), made.reverse());
  },

  async cancel_a_batch_that_is_validating() {
    const content = Array.from({ length: 20_000 }, (_, number) => line(`${number}`)).join("");
    let batch = await create(content);
    batch = await client.batches.cancel(batch.id);
    assert.ok(["cancelling", "cancelled"].includes(batch.status));
    batch = await reach(batch, "cancelled");
    assert.deepEqual([batch.in_progress_at, batch.output_file_id], [null, null]);
  },

  async cancel_a_batch_that_runs_and_again() {
    let batch = await create(line("quick") + line("slow", { behave: "timeout" }));
    batch = await until(batch, (now) => now.request_counts.completed === 1);
    batch = await client.batches.cancel(batch.id);
    assert.equal(batch.status, "cancelling");
    assert.equal((await client.batches.cancel(batch.id)).status, "cancelling");
    batch = await reach(batch, "cancelled");
    assert.deepEqual(await client.batches.cancel(batch.id), batch);
    assert.deepEqual(Object.keys(await results(batch.output_file_id)), ["quick"]);
    const left = await results(batch.error_file_id);
    assert.equal(left.slow.error.code, "batch_cancelled");
  },

  async cancel_a_batch_that_is_finalizing() {
    const content = line("slow", { behave: "timeout" });
    const batch = await reach(await create(content, { completion_window: "2s" }), "finalizing");
    assert.equal((await client.batches.cancel(batch.id)).status, "cancelling");
    await reach(batch, "cancelled");
  },

  async cancel_what_has_ended() {
    const slow = line("slow", { behave: "timeout" });
    const batches = {
      expired: await create(slow, { completion_window: "2s" }),
      failed: await create('{"custom_id": "no more than that"}\n'),
      completed: await create(line("a")),
    };
    for (const [status, made] of Object.entries(batches)) {
      await reach(made, status);
      await assert.rejects(client.batches.cancel(made.id), (error) => {
        assert.ok(error instanceof OpenAI.ConflictError);
        assert.match(error.message, new RegExp(`Cannot cancel a batch with status '${status}'`));
        return true;
      });
    }
  },

  async models_with_a_slash_in_the_name() {
    assert.deepEqual(await collect(client.models.list()), ["test-model", "meta/llama"]);
    assert.equal((await client.models.retrieve("meta/llama")).id, "meta/llama");
    await assert.rejects(client.models.retrieve("meta/none"), { code: "model_not_found" });
  },

  async every_answer_has_a_request_id() {
    const { data, response, request_id } = await client.models.list().withResponse();
    assert.ok(data.data.length > 0);
    assert.match(request_id, /^req_[0-9a-f]{32}$/);
    assert.equal(response.headers.get("x-request-id"), request_id);
    await assert.rejects(client.batches.retrieve("batch_none"), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.match(error.requestID, /^req_/);
      return true;
    });
  },

  async refusals_name_parameter_and_value() {
    const refused = [
      [/\/v1\/none/, () => create(line("a"), { endpoint: "/v1/none" })],
      [/completion_window.*48h/, () => create(line("a"), { completion_window: "48h" })],
      [/limit.*101/, () => client.batches.list({ limit: 101 })],
      [/Batch API/, () => upload("")],
      [/none/, () => upload("{}", "none")],
    ];
    for (const [message, call] of refused) {
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError, `${error}`);
        assert.match(error.message, message);
        return true;
      });
    }
  },
};

console.log(JSON.stringify({ openai: VERSION }));
for (const [step, run] of Object.entries(steps)) {
  let fault = null;
  try {
    await run();
  } catch (error) {
    fault = error.stack ?? String(error);
  }
  console.log(JSON.stringify({ step, fault }));
}
