import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

const bowser = fileURLToPath(new URL("stubs/bowser/index.js", import.meta.url));

/** `widget-daily.js`: the module with which the widget enters Daily's rooms. */
export default defineConfig({
  publicDir: false,
  resolve: { alias: { bowser } },
  build: {
    target: "es2022",
    // Beside the page, which is built before it.
    emptyOutDir: false,
    // Nearly all of it is Daily's library.
    chunkSizeWarningLimit: 400,
    rollupOptions: {
      input: "src/widget/daily.ts",
      preserveEntrySignatures: "strict",
      output: { entryFileNames: "widget-daily.js" },
    },
  },
});
