// How numbers, times and strangers' words are shown. What is unknown is a dash, never a nought.

export const UNKNOWN = "–";

// Signs that would turn lines around, hide, or command a terminal are shown by their number.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
export const inert = (text) =>
  String(text ?? "").replace(UNSEEN, (sign) => `‹${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);

export const count = (number) => (number == null ? UNKNOWN : Math.round(number).toLocaleString("en"));
export const rate = (number) => (number == null ? UNKNOWN : number >= 100 ? count(number) : number.toFixed(1));
export const share = (number) => (number == null ? UNKNOWN : number.toFixed(2));
export const percent = (number) => (number == null ? UNKNOWN : `${(number * 100).toFixed(number < 0.1 ? 1 : 0)} %`);

export function ms(time) {
  if (time == null) return UNKNOWN;
  if (time > 0 && time < 1) return "<1 ms";
  if (time < 1000) return `${Math.round(time)} ms`;
  if (time < 60_000) return `${(time / 1000).toFixed(time < 10_000 ? 1 : 0)} s`;
  if (time < 3_600_000) return `${Math.floor(time / 60_000)} min ${Math.round((time % 60_000) / 1000)} s`;
  return `${Math.floor(time / 3_600_000)} h ${Math.round((time % 3_600_000) / 60_000)} min`;
}

export function usd(amount) {
  if (amount == null) return UNKNOWN;
  if (amount === 0) return "$0";
  if (Math.abs(amount) >= 1) return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `$${Number(amount.toPrecision(2)).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 9 })}`;
}

export function bytes(number) {
  if (!number) return UNKNOWN;
  const power = Math.min(4, Math.floor(Math.log2(number) / 10));
  const value = number / 1024 ** power;
  return `${value.toFixed(value < 10 && power ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export function moment(at) {
  if (!at) return UNKNOWN;
  const time = new Date(at);
  const clock = time.toLocaleTimeString("en-GB");
  return time.toDateString() === new Date().toDateString() ? clock : `${time.toISOString().slice(0, 10)} ${clock}`;
}

export const tenantName = (tenant) => (tenant == null ? UNKNOWN : tenant === "" ? "no tenant" : tenant);
