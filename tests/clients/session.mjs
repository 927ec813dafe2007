// What a client in JavaScript goes through, whoever made its `WebSocket`: see `tests/tests/clients.rs`.

const CHAT = {
  id: 'a', type: 'chat', provider: 'openai', model: 'gpt-6-luna', stream: true, maxTokens: 100,
  prompt: 'Warum ist der Himmel über Köln blau?',
};

const TEXTS = Array.from({ length: 20 }, (_, nth) => `text ${nth}`);

function must(holds, what, seen) {
  if (!holds) throw new Error(`${what}: ${JSON.stringify(seen)}`);
}

/** Frames in the order in which they came, and the socket's end after the last one. */
class Client {
  #socket;
  #said = [];
  #waiting;

  constructor(socket) {
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => this.#hear(JSON.parse(data)));
    socket.addEventListener('close', ({ code, reason }) => this.#hear({ closed: code, reason }));
    // What is to be known of it comes with the close.
    socket.addEventListener('error', () => {});
  }

  static async connect(socket) {
    const client = new Client(socket);
    client.ready = await client.next();
    must(client.ready.type === 'ready', 'the first frame', client.ready);
    return client;
  }

  #hear(said) {
    this.#said.push(said);
    this.#waiting?.();
  }

  async next() {
    while (this.#said.length === 0) await new Promise((heard) => (this.#waiting = heard));
    return this.#said.shift();
  }

  /** Passes over everything before it. */
  async closed() {
    for (;;) {
      const said = await this.next();
      if ('closed' in said) return said;
    }
  }

  get extensions() {
    return this.#socket.extensions;
  }

  send(frame) {
    this.#socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  close() {
    this.#socket.close(1000);
  }

  /** Adds the chunks of `a` to `answer`, without a gap and none twice, until its end or the socket's. */
  async read(answer) {
    for (;;) {
      const said = await this.next();
      if (said.type !== 'chunk') return said;
      must(said.id === 'a' && said.seq === answer.chunks.length + 1, `chunk ${answer.chunks.length + 1}`, said);
      answer.requestId ??= said.requestId;
      answer.chunks.push(said.data);
    }
  }
}

/** `open` and `refused` where a socket can be given no header, and does not tell the status of an upgrade: as in a browser. */
export function withSubprotocols(WebSocket, token) {
  const connect = (address, bearer) => new WebSocket(`ws://${address}/mcp`, ['aihub.v1', `bearer.${bearer}`]);
  const refused = async (address) => {
    const opened = await new Promise((resolve) => {
      const socket = connect(address, 'bad');
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    });
    must(!opened, 'a bad token', 'was taken');
    const answer = await fetch(`http://${address}/api/credits`, { headers: { authorization: 'Bearer bad' } });
    return answer.status;
  };
  return { open: (address) => connect(address, token), refused };
}

/** `open` makes a socket to an address, `refused` gives the status of an upgrade with a bad token, `terminate` ends the service. */
export async function run({ service, proxy, open, refused, terminate }) {
  // It streams.
  const client = await Client.connect(open(service));
  const whole = { chunks: [] };
  client.send(CHAT);
  const done = await client.read(whole);
  must(done.type === 'done', 'the end of a stream', done);
  must(whole.chunks.join('').includes('köln'), 'what was said', whole);

  // What is long comes shorter, where both sides can.
  client.send({ id: 'e', type: 'embedding', provider: 'openai', model: 'text-embedding-3-small', input: TEXTS });
  const embedded = await client.next();
  must(embedded.data?.length === TEXTS.length, 'an embedding', embedded);
  const deflated = client.extensions.includes('permessage-deflate');

  // It is cut in the midst of an answer, twice, and goes on where it was.
  const parts = { chunks: [] };
  const resumed = [];
  let ask = CHAT;
  let connectionId;
  for (;;) {
    const cut = await Client.connect(open(proxy));
    connectionId ??= cut.ready.connectionId;
    cut.send(ask);
    const end = await cut.read(parts);
    if (end.type === 'done') {
      must(end.metadata.requestId === parts.requestId, 'the end of the same answer', end);
      cut.close();
      break;
    }
    must(end.closed === 1006 && parts.requestId, 'a cut in the midst of an answer', end);
    const after = parts.chunks.length;
    const name = resumed.length === 0 ? { requestId: parts.requestId } : { connectionId };
    ask = { type: 'resume', id: 'a', after, ...name };
    resumed.push(after);
  }
  must(parts.chunks.join('') === whole.chunks.join(''), 'what was said in parts', parts);

  // It is refused, by the status of the upgrade and by a frame after which the socket lives.
  const status = await refused(service);
  client.send({ id: 'b', type: 'sing' });
  const error = await client.next();
  must(error.type === 'error' && error.id === 'b', 'an error', error);
  client.send({ type: 'ping' });
  const pong = await client.next();
  must(pong.type === 'pong', 'a sign of life', pong);

  // It is closed, for its own faults and because the service ends.
  const closed = {};
  const note = (said) => (closed[said.closed] = said.reason);
  const { maxFrameBytes, malformedFramesAllowed } = client.ready.limits;
  client.send('x'.repeat(maxFrameBytes + 1));
  note(await client.closed());
  const malformed = await Client.connect(open(service));
  for (let sent = 0; sent <= malformedFramesAllowed; sent += 1) malformed.send('{');
  note(await malformed.closed());
  const last = await Client.connect(open(service));
  await terminate();
  note(await last.closed());

  const { length } = parts.chunks;
  return { deflated, streamed: whole.chunks.length, resumed, whole: length, refused: status, error: error.error.code, closed };
}
