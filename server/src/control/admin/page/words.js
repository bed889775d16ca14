// Words for numbers.

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit === 0 || count >= 100 ? Math.round(count) : +count.toFixed(1)) + " " + units[unit];
}
const rate = (count) => bytes(count) + "/s";
const whole = (count) => Math.round(count).toLocaleString("en");
const perSecond = (count) => (count >= 100 ? whole(count) : +count.toFixed(1)) + "/s";
function time(ms) {
  if (ms >= 1000) return +(ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";
  return (ms >= 10 ? Math.round(ms) : +ms.toPrecision(2)) + " ms";
}
function duration(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return Math.floor(seconds / size) + " " + name;
  }
  return Math.round(seconds) + " s";
}
const percent = (part) => (100 * part).toFixed(part < 0.1 ? 1 : 0) + "%";
const clock = (seconds, withSeconds = true) => new Date(seconds * 1000).toLocaleTimeString([], {
  hour: "2-digit", minute: "2-digit", second: withSeconds ? "2-digit" : undefined, hourCycle: "h23",
});
const plural = (count, one, many = one + "s") => whole(count) + " " + (count === 1 ? one : many);
