// Compiles src/ and test/ into artifacts/, or with --check tells whether artifacts/ is what they compile to.
//
// The result depends on the sources and on the pinned compiler alone: no metadata hash goes into the bytecode, and paths are
// relative. So the committed artefacts can be checked by anybody, and code on a chain can be held against them byte by byte.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const root = dirname(fileURLToPath(import.meta.url));
const CONTRACTS = { BatchExecutor: "src/BatchExecutor.sol", Callee: "test/Callee.sol" };

const sources = {};
for (const path of Object.values(CONTRACTS)) {
  sources[path] = { content: readFileSync(join(root, path), "utf8") };
}

const input = {
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "cancun",
    viaIR: true,
    optimizer: { enabled: true, runs: 1_000_000 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};

const output = JSON.parse(solc.compile(JSON.stringify(input)));
const messages = (output.errors ?? []).map((error) => error.formattedMessage);
if (messages.length > 0) {
  console.error(messages.join("\n"));
  process.exit(1);
}

const check = process.argv.includes("--check");
let stale = 0;
for (const [name, source] of Object.entries(CONTRACTS)) {
  const { abi, evm } = output.contracts[source][name];
  const entries = abi.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
  const creation = `"creation": "0x${evm.bytecode.object}"`;
  const runtime = `"runtime": "0x${evm.deployedBytecode.object}"`;
  const text = `{\n  "abi": [\n${entries}\n  ],\n  ${creation},\n  ${runtime}\n}\n`;
  const path = join(root, "artifacts", `${name}.json`);
  if (!check) {
    writeFileSync(path, text);
  } else if (readFileSync(path, "utf8") !== text) {
    console.error(`artifacts/${name}.json is not what ${source} compiles to: npm run build`);
    stale += 1;
  }
}
process.exit(stale === 0 ? 0 : 1);
