// Node's clients, `node.mjs ws` or `node.mjs built-in`: the latter is undici's, by itself where Node has none.
// Its parameters stand in the environment; see `tests/tests/clients.rs`.

import { createRequire } from 'node:module';
import { run, withSubprotocols } from './session.mjs';

// Looks into `NODE_PATH`, which `import` does not.
const require = createRequire(import.meta.url);
const { AIHUB_SERVICE: service, AIHUB_PROXY: proxy, AIHUB_TOKEN: token, AIHUB_TERMINATE: terminate } = process.env;

function ws() {
  const { WebSocket } = require('ws');
  const connect = (address, bearer) =>
    new WebSocket(`ws://${address}/mcp`, { headers: { authorization: `Bearer ${bearer}` } });
  const refused = (address) =>
    new Promise((resolve, reject) => {
      const socket = connect(address, 'bad');
      socket.on('unexpected-response', (_, { statusCode }) => resolve(statusCode));
      socket.on('open', () => reject(new Error('a bad token was taken')));
      socket.on('error', reject);
    });
  return { client: `ws ${require('ws/package.json').version}`, open: (address) => connect(address, token), refused };
}

function builtIn() {
  const { WebSocket } = globalThis.WebSocket ? globalThis : require('undici');
  const client = globalThis.WebSocket ? `built into Node ${process.versions.node}` : 'undici';
  return { client, ...withSubprotocols(WebSocket, token) };
}

const { client, ...kind } = process.argv[2] === 'ws' ? ws() : builtIn();
const report = await run({ service, proxy, ...kind, terminate: () => fetch(terminate, { method: 'POST' }) });
console.log(JSON.stringify({ client, ...report }));
