// Runs what a client has to do, and tells as JSON what came of it. Every program beside this one ends with `run`.

export const address = process.env.BULLPEN;
export const key = process.env.BULLPEN_KEY;
export const TEXT = "simulated", SEES = "sees", SLOW = "slow", BROKEN = "broken";
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/** What `asked` throws; it is a fault if it throws nothing. */
export async function refused(asked) {
  try {
    await asked();
  } catch (error) {
    return error;
  }
  throw new Error("was not refused");
}

/** `scenarios`: functions by name. `read(model, leaves)`: reads a stream to its end, or leaves it after the first words. */
export async function run(scenarios, read) {
  if (process.argv[2] === "leave") {
    await read(SLOW, true);
    console.log("left");
    process.stdin.resume(); // whoever started this process ends it; until then it lives, and only its stream is gone
    return;
  }
  if (process.argv[2] === "break") {
    console.log(String(await refused(() => read(BROKEN, false))));
    return;
  }
  const told = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await scenario();
      told[name] = "ok";
    } catch (error) {
      told[name] = error.stack ?? String(error);
    }
  }
  console.log(JSON.stringify(told));
}
