import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

const stub = (name: string) => fileURLToPath(new URL(`stubs/${name}/index.js`, import.meta.url));

/** `widget.js`: one file that any page can load with a plain `<script>`. */
export default defineConfig({
  publicDir: false,
  resolve: {
    alias: { "@daily-co/daily-js": stub("daily-js"), bowser: stub("bowser") },
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
