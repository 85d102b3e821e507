const LIGHT = "#ffffff";
const DARK = "#171310";

/** The contrast that small text needs (WCAG 2.2, 1.4.3). */
const CONTRAST = 4.5;

/**
 * The colour of text that can be read on another.
 *
 * @param background - As `getComputedStyle` gives it: `rgb(18, 120, 107)` or `color(srgb 0 1 0)`.
 * @returns White where it can be read, else something dark; white for a notation that is neither.
 */
export function inkOn(background: string): string {
  const [notation] = background.split("(");
  const numbers = (background.match(/[\d.]+(e-?\d+)?/g) ?? []).map(Number);
  let channels: number[];
  if (notation === "rgb" || notation === "rgba") channels = numbers.map((n) => n / 255);
  else if (background.startsWith("color(srgb ")) channels = numbers;
  else return LIGHT;
  const [red = 0, green = 0, blue = 0] = channels.map((channel) =>
    // Relative luminance, as WCAG defines it.
    channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4,
  );
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return 1.05 / (luminance + 0.05) >= CONTRAST ? LIGHT : DARK;
}
