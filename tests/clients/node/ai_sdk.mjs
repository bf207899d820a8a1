// Vercel's AI SDK, over each of its ways to reach a server like OpenAI's, or Anthropic's.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { PNG, SEES, TEXT, address, key, refused, run } from "./scenarios.mjs";

const sent = [];
function listening(url, init) {
  sent.push(init.body);
  return fetch(url, init);
}
const place = { name: "bullpen", baseURL: `${address}/v1`, apiKey: key };
const settings = { ...place, fetch: listening, supportsStructuredOutputs: true, includeUsage: true };
const compatible = createOpenAICompatible(settings);
const providers = { compatible, responses: createOpenAI(settings), messages: createAnthropic(settings) };
const thinking = {
  bullpen: { reasoningEffort: "low" },
  openai: { reasoningEffort: "low", reasoningSummary: "auto", forceReasoning: true, store: false },
  anthropic: { thinking: { type: "enabled", budgetTokens: 2000 } },
};
const prompt = "What is the answer?";
const City = z.object({ name: z.string(), people: z.number().int() });

function image(model) {
  const content = [{ type: "text", text: "What is this?" }, { type: "file", mediaType: "image/png", data: PNG }];
  return generateText({ model, messages: [{ role: "user", content }], maxRetries: 0 });
}

const scenarios = {};
for (const [name, provider] of Object.entries(providers)) {
  const model = provider(TEXT);
  Object.assign(scenarios, {
    async [`${name} chat`]() {
      const answer = await generateText({ model, prompt, maxOutputTokens: 17 });
      assert.equal(answer.text.split(" ").length, 17);
      assert.equal(answer.finishReason, "length");
      assert.equal(answer.usage.outputTokens, 17);
    },
    async [`${name} stream`]() {
      const whole = await generateText({ model, prompt });
      const stream = streamText({ model, prompt });
      let text = "";
      for await (const piece of stream.textStream) text += piece;
      assert.equal(text, whole.text);
      assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
    },
    async [`${name} tools`]() {
      const cities = [];
      const execute = ({ city }) => (cities.push(city), "It rains.");
      const weather = tool({ description: "Of a city", inputSchema: z.object({ city: z.string() }), execute });
      const asked = { model, prompt, tools: { weather }, stopWhen: stepCountIs(3) };
      assert.ok((await generateText(asked)).text);
      assert.ok(await streamText(asked).text);
      assert.deepEqual(cities.map((city) => typeof city), ["string", "string"]);
    },
    async [`${name} thoughts`]() {
      const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: () => "It rains." });
      const asked = { model, prompt, tools: { weather }, stopWhen: stepCountIs(3), providerOptions: thinking };
      for (const steps of [(await generateText(asked)).steps, await streamText(asked).steps]) {
        assert.equal(steps.length, 2);
        assert.ok(steps[0].reasoningText);
        assert.ok(sent.at(-1).includes(steps[0].reasoningText), "what was thought at first is not in the second request");
      }
    },
    async [`${name} schema`]() {
      const answer = await generateText({ model, prompt, output: Output.object({ schema: City }) });
      City.parse(answer.output);
    },
    async [`${name} image`]() {
      assert.ok((await image(provider(SEES))).text);
      const error = await refused(() => image(model));
      assert.equal(error.statusCode, 400);
      assert.match(error.message, /vision|image/);
    },
    async [`${name} unknownModel`]() {
      const error = await refused(() => generateText({ model: provider("nobody"), prompt, maxRetries: 0 }));
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 404);
      assert.match(error.message, /served are/);
    },
    async [`${name} badKey`]() {
      const makers = { compatible: createOpenAICompatible, responses: createOpenAI, messages: createAnthropic };
      const wrong = makers[name]({ ...settings, apiKey: "bp-wrong" })(TEXT);
      assert.equal((await refused(() => generateText({ model: wrong, prompt }))).statusCode, 401);
    },
  });
}

await run(scenarios, async (model, leaves) => {
  const abort = new AbortController();
  const stream = streamText({ model: compatible(model), prompt, abortSignal: abort.signal, onError() {} });
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    if (leaves && part.type === "text-delta") break;
  }
  abort.abort();
});
