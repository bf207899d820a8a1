// The openai package for JavaScript: chat completions and responses.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { PNG, SEES, TEXT, address, key, refused, run } from "./scenarios.mjs";

const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the answer?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const City = z.object({ name: z.string(), people: z.number().int(), rivers: z.array(z.string()) });

function image(model) {
  const parts = [{ type: "text", text: "What is this?" }, { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } }];
  return client.chat.completions.create({ model, messages: [{ role: "user", content: parts }] });
}

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create({ model: TEXT, messages, max_tokens: 7 });
    assert.equal(answer.choices[0].message.content.split(" ").length, 7);
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 7);
  },
  async stream() {
    const whole = await client.chat.completions.create({ model: TEXT, messages });
    const stream = client.chat.completions.stream({ model: TEXT, messages, stream_options: { include_usage: true } });
    assert.equal(await stream.finalContent(), whole.choices[0].message.content);
    assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);
  },
  async tools() {
    const cities = [];
    const weather = { name: "weather", parameters, parse: JSON.parse, function: ({ city }) => (cities.push(city), "It rains.") };
    const tools = [{ type: "function", function: weather }];
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({ model: TEXT, messages, tools, stream });
      assert.ok((await runner.finalContent()).length > 0);
    }
    assert.deepEqual(cities.map((city) => typeof city), ["string", "string"]);
  },
  async schema() {
    const format = zodResponseFormat(City, "city");
    const answer = await client.chat.completions.parse({ model: TEXT, messages, response_format: format });
    City.parse(answer.choices[0].message.parsed);
  },
  async image() {
    assert.ok((await image(SEES)).choices[0].message.content);
    const error = await refused(() => image(TEXT));
    assert.equal(error.status, 400);
    assert.match(error.message, /vision|image/);
  },
  async models() {
    const names = (await client.models.list()).data.map((model) => model.id);
    assert.ok(["auto", "policy:cheapest", TEXT, SEES].every((name) => names.includes(name)));
    assert.equal((await client.models.retrieve(TEXT)).id, TEXT);
  },
  async unknownModel() {
    const error = await refused(() => client.chat.completions.create({ model: "nobody", messages }));
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.equal(error.param, "model");
  },
  async badKey() {
    const error = await refused(() => client.withOptions({ apiKey: "bp-wrong" }).models.list());
    assert.ok(error instanceof OpenAI.AuthenticationError);
  },
  async embeddings() {
    const asked = { model: TEXT, input: ["Paris", "Rome"] };
    let answer;
    try {
      answer = await client.embeddings.create(asked);
    } catch (error) {
      if (error.code === "not_found") return; // this gateway serves none
      throw error;
    }
    assert.equal(answer.data.length, 2);
    assert.ok(answer.data.every(({ embedding }) => embedding.length > 0 && embedding.every(Number.isFinite)));
  },
  async responses() {
    const answer = await client.responses.create({ model: TEXT, input: "What is the answer?", store: false });
    assert.ok(answer.output_text.length > 0);
    const stream = client.responses.stream({ model: TEXT, input: "What is the answer?", store: false });
    assert.equal((await stream.finalResponse()).output_text, answer.output_text);
  },
  async responsesTools() {
    const tools = [{ type: "function", name: "weather", parameters, strict: false }];
    const input = [{ role: "user", content: "What is the weather?" }];
    const first = await client.responses.create({ model: TEXT, input, tools, store: false });
    const call = first.output.find((item) => item.type === "function_call");
    assert.equal(typeof JSON.parse(call.arguments).city, "string");
    const result = { type: "function_call_output", call_id: call.call_id, output: "It rains." };
    const last = await client.responses.create({ model: TEXT, input: [...input, ...first.output, result], tools });
    assert.ok(last.output_text.length > 0);
  },
  async responsesSchema() {
    const text = { format: zodTextFormat(City, "city") };
    const answer = await client.responses.parse({ model: TEXT, input: "Which city?", text });
    City.parse(answer.output_parsed);
  },
};

await run(scenarios, async (model, leaves) => {
  const stream = await client.chat.completions.create({ model, messages, stream: true });
  for await (const chunk of stream) if (leaves && chunk.choices[0]?.delta.content) break;
});
