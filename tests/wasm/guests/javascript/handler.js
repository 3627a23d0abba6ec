// A guest made with componentize-js: each path tries one thing that its world offers.
import { getContext } from 'alga:extension/context';
import { logError, logInfo, logWarn } from 'alga:extension/logging';
import { get as getSecret, listKeys } from 'alga:extension/secrets';
import { listEntries, put } from 'alga:extension/storage';
import { callRoute } from 'alga:extension/ui-proxy';
import { getUser } from 'alga:extension/user';
import { getUser as getUserV2 } from 'alga:extension/user-v2';
import { fetch as fetchUrl } from 'alga:extension/http';

const text = new TextEncoder();

function everything() {
  console.log('to stdout');
  console.error('to stderr');
  logInfo('info');
  logWarn('warn');
  logError('error');
  const entry = put({ namespace: 'notes', key: '1', value: new Uint8Array([0, 255]) });
  const fetched = fetchUrl({
    method: 'GET', url: 'https://api.example/', headers: [{ name: 'a', value: 'b' }],
  });
  return {
    tenant: getContext().tenantId,
    secret: getSecret('token'),
    keys: listKeys(),
    route: new TextDecoder().decode(callRoute('/api/me', text.encode('payload'))),
    revision: Number(entry.revision),
    entries: listEntries('notes').map((found) => found.key),
    user: getUser().userName,
    fields: getUserV2().additionalFields,
    fetched: fetched.status,
  };
}

function refused() {
  try {
    getSecret('token');
  } catch (error) {
    return { refused: (error.payload ?? error).toString() };
  }
}

function granted() {
  try {
    return {
      secret: getSecret('token'),
      route: new TextDecoder().decode(callRoute('/api/me', text.encode('payload'))),
    };
  } catch (error) {
    return { refused: (error.payload ?? error).toString() };
  }
}

const paths = {
  '/': everything,
  '/refused': refused,
  '/granted': granted,
  '/loop': () => { for (;;) ; },
  '/fail': () => { throw new Error('told to'); },
  '/hoard': () => {
    const kept = [];
    for (;;) kept.push(new Uint8Array(1 << 20).fill(1));
  },
  '/fetch': () => fetch('http://127.0.0.1:9/'),
};

export async function handler(request) {
  if (request.http.body !== undefined) {
    return { status: 200, headers: request.http.headers, body: request.http.body };
  }
  const answer = await paths[request.http.url.split('?')[0]]();
  return {
    status: 201,
    headers: [{ name: 'Content-Type', value: 'application/json' }],
    body: text.encode(JSON.stringify(answer)),
  };
}
