// Compiles src/ into artifacts/, or with --check tells whether artifacts/ is what src/ compiles to.
//
// The result depends on the sources and on the pinned compiler alone: no metadata hash goes into the bytecode, and paths are
// relative. So the committed artefacts can be checked by anybody.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const root = dirname(fileURLToPath(import.meta.url));
// Generations of the protocol, each in a folder of its own, and what both use.
const CONTRACTS = {
  shared: ["Proxy", "Wallet"],
  a: ["ACL", "CiphertextCommits", "Decryption", "GatewayConfig", "KMSGeneration", "MultichainACL"],
  b: ["ACL", "CiphertextCommits", "Decryption", "DecryptionV14", "GatewayConfig", "KMSGeneration", "ProtocolConfig"],
};

const sources = {};
for (const folder of Object.keys(CONTRACTS)) {
  for (const file of readdirSync(join(root, "src", folder)).sort()) {
    sources[`src/${folder}/${file}`] = { content: readFileSync(join(root, "src", folder, file), "utf8") };
  }
}

const input = {
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 800 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
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
for (const [folder, names] of Object.entries(CONTRACTS)) {
  mkdirSync(join(root, "artifacts", folder), { recursive: true });
  for (const name of names) {
    const { abi, evm } = output.contracts[`src/${folder}/${name}.sol`][name];
    const entries = abi.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
    const text = `{\n  "abi": [\n${entries}\n  ],\n  "bytecode": "0x${evm.bytecode.object}"\n}\n`;
    const path = join(root, "artifacts", folder, `${name}.json`);
    if (!check) {
      writeFileSync(path, text);
    } else if (readFileSync(path, "utf8") !== text) {
      console.error(`artifacts/${folder}/${name}.json is not what src/ compiles to: npm run build`);
      stale += 1;
    }
  }
}
process.exit(stale === 0 ? 0 : 1);
