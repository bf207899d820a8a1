// The @anthropic-ai/sdk package for JavaScript.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { PNG, SEES, TEXT, address, key, refused, run } from "./scenarios.mjs";

const client = new Anthropic({ baseURL: address, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the answer?" }];
const asked = { model: TEXT, max_tokens: 200, messages };
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };

function image(model) {
  const source = { type: "base64", media_type: "image/png", data: PNG };
  return client.messages.create({ ...asked, model, messages: [{ role: "user", content: [{ type: "image", source }] }] });
}

const scenarios = {
  async chat() {
    const answer = await client.messages.create({ ...asked, max_tokens: 7 });
    assert.equal(answer.content[0].text.split(" ").length, 7);
    assert.equal(answer.stop_reason, "max_tokens");
    assert.ok(answer._request_id);
  },
  async stream() {
    const whole = await client.messages.create(asked);
    const streamed = await client.messages.stream(asked).finalMessage();
    assert.deepEqual(streamed.content.map((block) => block.text), whole.content.map((block) => block.text));
    assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  },
  async tools() {
    const cities = [];
    const run = ({ city }) => (cities.push(city), "It rains.");
    const tools = [betaTool({ name: "weather", description: "Of a city", inputSchema: schema, run })];
    const answer = await client.beta.messages.toolRunner({ ...asked, tools });
    assert.equal(answer.stop_reason, "end_turn");
    assert.deepEqual(cities.map((city) => typeof city), ["string"]);
  },
  async schema() {
    const output_config = { format: { type: "json_schema", schema } };
    const answer = await client.messages.create({ ...asked, output_config });
    assert.equal(typeof JSON.parse(answer.content[0].text).city, "string");
  },
  async image() {
    assert.equal((await image(SEES)).stop_reason, "end_turn");
    const error = await refused(() => image(TEXT));
    assert.equal(error.status, 400);
    assert.match(error.message, /vision|image/);
  },
  async count() {
    assert.ok((await client.messages.countTokens({ model: TEXT, messages })).input_tokens > 0);
  },
  async models() {
    const names = (await client.models.list()).data.map((model) => model.id);
    assert.ok(names.includes(TEXT));
  },
  async unknownModel() {
    const error = await refused(() => client.messages.create({ ...asked, model: "nobody" }));
    assert.ok(error instanceof Anthropic.NotFoundError);
  },
  async badKey() {
    const error = await refused(() => client.withOptions({ apiKey: "bp-wrong" }).messages.create(asked));
    assert.ok(error instanceof Anthropic.AuthenticationError);
  },
};

await run(scenarios, async (model, leaves) => {
  for await (const event of client.messages.stream({ ...asked, model })) {
    if (leaves && event.type === "content_block_delta") break;
  }
});
