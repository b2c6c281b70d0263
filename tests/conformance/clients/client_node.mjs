// openai for Node, and the Vercel AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const URL_ = process.env.SHOAL_URL;
const MODEL = process.env.SHOAL_MODEL;
const ENCODER = process.env.SHOAL_ENCODER;
const TEXTS = ["The cat sleeps on the sofa.", "A kitten is having a nap.", "Shares fell today."];
const messages = [{ role: "user", content: "Say hello." }];
const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: "none", maxRetries: 0 });
const provider = createOpenAICompatible({
  name: "shoal", baseURL: `${URL_}/v1`, apiKey: "none", supportsStructuredOutputs: true,
});
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: {
      type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"],
    },
  },
};
const check = (condition, saw) => {
  if (!condition) throw new Error(`saw ${JSON.stringify(saw)}`.slice(0, 400));
};

const cosine = (a, b) => {
  const product = (u, v) => u.reduce((sum, x, i) => sum + x * v[i], 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b));
};
const checkVectors = ([first, near, far]) =>
  check(cosine(first, near) > cosine(first, far) + 0.2, [first, near, far].map((v) => v.slice(0, 3)));

const features = {
  "openai: models": async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    check(names.includes(MODEL), names);
  },
  "openai: completions": async () => {
    const answer = await client.completions.create({ model: MODEL, prompt: "Hi", max_tokens: 8 });
    check(answer.usage.completion_tokens > 0, answer);
  },
  "openai: chat": async () => {
    const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 20 });
    check(answer.choices[0].message.content, answer);
  },
  "openai: chat streamed": async () => {
    let text = "";
    const stream = await client.chat.completions.create(
      { model: MODEL, messages, max_tokens: 20, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    check(text, text);
  },
  "openai: tools": async () => {
    const answer = await client.chat.completions.create(
      { model: MODEL, messages, max_tokens: 100, tools: [weather], tool_choice: "required" });
    const call = answer.choices[0].message.tool_calls[0];
    check(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city), call);
  },
  "openai: responses": async () => {
    const answer = await client.responses.create(
      { model: MODEL, input: "Hello!", max_output_tokens: 20 });
    check(answer.output_text, answer);
  },
  ...(ENCODER && {
    "openai: embeddings": async () => {
      const answer = await client.embeddings.create({ model: ENCODER, input: TEXTS });
      checkVectors(answer.data.map((entry) => entry.embedding));
    },
    "ai-sdk: embeddings": async () => {
      const model = provider.textEmbeddingModel(ENCODER);
      const { embeddings } = await embedMany({ model, values: TEXTS });
      checkVectors(embeddings);
    },
  }),
  "ai-sdk: chat": async () => {
    const { text } = await generateText(
      { model: provider(MODEL), prompt: "Say hello.", maxOutputTokens: 20 });
    check(text, text);
  },
  "ai-sdk: chat streamed": async () => {
    const { textStream } = streamText(
      { model: provider(MODEL), prompt: "Say hello.", maxOutputTokens: 20 });
    let text = "";
    for await (const part of textStream) text += part;
    check(text, text);
  },
  "ai-sdk: structured output": async () => {
    const { object } = await generateObject({
      model: provider(MODEL), prompt: "Bob is 30.", maxOutputTokens: 200,
      schema: z.object({ name: z.string().max(20), age: z.number().int() }),
    });
    check(typeof object.name === "string" && Number.isInteger(object.age), object);
  },
  "ai-sdk: tools": async () => {
    const { toolCalls } = await generateText({
      model: provider(MODEL), prompt: "Weather in Paris?", maxOutputTokens: 100,
      toolChoice: "required",
      tools: {
        get_weather: tool({
          description: "The weather", inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
        }),
      },
    });
    check(["Paris", "Rome"].includes(toolCalls[0]?.input?.city), toolCalls);
  },
};

for (const [feature, run] of Object.entries(features)) {
  let detail = "";
  try {
    await run();
  } catch (error) {
    detail = `${error.name}: ${error.message}`.slice(0, 400);
    console.error(error);
  }
  console.log(JSON.stringify({ feature, ok: !detail, detail }));
}
