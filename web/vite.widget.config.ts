import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

/** `widget.js`: one file that any page can load with a plain `<script>`. */
export default defineConfig({
  publicDir: false,
  resolve: {
    alias: { bowser: fileURLToPath(new URL("stubs/bowser/index.js", import.meta.url)) },
  },
  build: {
    target: "es2022",
    // Beside the page, which is built before it.
    emptyOutDir: false,
    lib: {
      entry: "src/widget/index.ts",
      formats: ["iife"],
      name: "ParleyWidget",
      fileName: () => "widget.js",
    },
  },
});
