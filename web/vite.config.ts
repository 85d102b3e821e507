import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

/** Where `npm run dev` finds the bot. */
const server = process.env.PARLEY_URL ?? "http://localhost:7860";

export default defineConfig({
  // Relative, so that the page can be served from the root or from below a path.
  base: "./",
  resolve: {
    alias: {
      "@daily-co/daily-js": fileURLToPath(new URL("stubs/daily-js/index.js", import.meta.url)),
    },
  },
  build: {
    target: "es2022",
    // A data: URL would need a hole in the server's Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: ["index.html", "record.html"] },
    // The Pipecat client is most of it, and is needed for the first call only.
    chunkSizeWarningLimit: 300,
  },
  server: {
    proxy: Object.fromEntries(
      ["/api", "/start", "/sessions", "/calls", "/health"].map((path) => [path, { target: server }]),
    ),
  },
});
