// Lines over time, drawn by uPlot in the page's colours.
import uPlot from "/page/vendor/uPlot.js";
import { html, useEffect, useRef } from "/page/vendor/htm-preact.js";

const HEIGHT = 220;
const DAY = 86_400_000;
const BY_DAYS = [1, 2, 5, 10, 20, 30].map((days) => days * 86_400); // a bar is a day: no ticks between
const DARK = matchMedia("(prefers-color-scheme: dark)");

export const colour = (number) => getComputedStyle(document.documentElement).getPropertyValue(`--line-${(number % 6) + 1}`).trim();
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// `times`: unix seconds; `lines`: [{ name, values }]; `shown`: a value as text; `since`: where the axis begins.
// As `bars` they are stacked: each is drawn as the sum of itself and those after it, the tallest first.
export function Lines({ label, since, times, lines, shown, bars }) {
  const box = useRef();
  const key = JSON.stringify([times, lines.map((line) => [line.name, line.values])]);
  useEffect(() => {
    const axis = { stroke: ink("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: ink("--edge"), width: 1 }, ticks: { show: false } };
    const options = () => ({
      width: box.current.clientWidth,
      height: HEIGHT,
      legend: { live: false },
      cursor: { y: false },
      scales: { x: { range: () => [since, bars ? Math.ceil(Date.now() / DAY) * DAY / 1000 : Date.now() / 1000] }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1] } },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"), // as the books count their days
      axes: [{ ...axis, size: 34, space: 64, incrs: bars ? BY_DAYS : undefined, values: (_, ticks, __, ___, step) => ticks.map((at) => clock(at, step)) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(shown) }],
      series: [
        {},
        ...lines.map((line, number) => ({
          label: line.name, stroke: colour(number), width: 2, spanGaps: true,
          points: { show: !bars && times.length < 70, size: 6 },
          ...(bars ? { fill: colour(number), paths: uPlot.paths.bars({ size: [0.6, 40], align: 1 }) } : {}),
        })),
      ],
    });
    const make = () => new uPlot(options(), [times, ...(bars ? stacked(lines) : lines.map((line) => line.values))], box.current);
    let plot = make();
    const again = () => {
      plot.destroy();
      plot = make();
    };
    const fit = new ResizeObserver(() => box.current.clientWidth !== plot.width && plot.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    fit.observe(box.current);
    DARK.addEventListener("change", again);
    return () => {
      fit.disconnect();
      DARK.removeEventListener("change", again);
      plot.destroy();
    };
  }, [key]);
  return html`<div class="chart" role="img" aria-label=${label} ref=${box}></div>`;
}

// Day and month, as `24 Nov`, or the hour where ticks are closer than a day and it is not midnight.
function clock(at, step) {
  const [day, time] = new Date(at * 1000).toISOString().split("T");
  return step < 86_400 && !time.startsWith("00:00") ? time.slice(0, 5) : new Date(day).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

const stacked = (lines) =>
  lines.map((_, number) => lines[number].values.map((_, at) => lines.slice(number).reduce((sum, line) => sum + (line.values[at] ?? 0), 0)));
