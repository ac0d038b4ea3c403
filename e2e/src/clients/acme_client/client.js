// What a program of one's own would do with the npm package `acme-client`: one action, described by the JSON in the only
// argument. What it found goes to standard output, as JSON.
'use strict';

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const acme = require('acme-client');

const account = { termsOfServiceAgreed: true, contact: ['mailto:operator@example.com'] };

function newKey(kind) {
    return kind === 'rsa2048'
        ? acme.crypto.createPrivateRsaKey(2048)
        : acme.crypto.createPrivateEcdsaKey(kind === 'ec384' ? 'P-384' : 'P-256');
}

/** A client with the account whose key is in the file, which is made the first time. */
async function connect(request) {
    if (!fs.existsSync(request.account)) {
        fs.writeFileSync(request.account, await newKey(request.account_key));
    }
    const eab = request.eab && { kid: request.eab.kid, hmacKey: request.eab.hmac_key };
    return new acme.Client({
        directoryUrl: request.directory,
        accountKey: fs.readFileSync(request.account),
        externalAccountBinding: eab || {},
        backoffMin: 100,
    });
}

const file = (request, challenge) => path.join(request.webroot, challenge.token);

/** The package's own way from a CSR to a certificate, which knows DNS names and nothing else. */
async function automatic(client, request, csr) {
    return client.auto({
        csr,
        email: 'operator@example.com',
        termsOfServiceAgreed: true,
        challengePriority: ['http-01'],
        // It would ask at port 80 itself first.
        skipChallengeVerification: true,
        challengeCreateFn: async (authorization, challenge, answer) => {
            fs.writeFileSync(file(request, challenge), answer);
        },
        challengeRemoveFn: async (authorization, challenge) => fs.unlinkSync(file(request, challenge)),
    });
}

/** Step by step, for addresses and profiles. */
async function manual(client, request, csr) {
    await client.createAccount(account);
    const order = await client.createOrder({
        identifiers: request.names.map((value) => ({ type: net.isIP(value) ? 'ip' : 'dns', value })),
        ...(request.profile && { profile: request.profile }),
    });
    for (const authorization of await client.getAuthorizations(order)) {
        // One that is valid already asks for nothing.
        if (authorization.status !== 'valid') {
            const challenge = authorization.challenges.find(({ type }) => type === 'http-01');
            fs.writeFileSync(file(request, challenge), await client.getChallengeKeyAuthorization(challenge));
            await client.completeChallenge(challenge);
            await client.waitForValidStatus(challenge);
        }
    }
    return client.getCertificate(await client.finalizeOrder(order, csr));
}

async function obtain(request) {
    const client = await connect(request);
    const [key, csr] = await acme.crypto.createCsr({ altNames: request.names }, await newKey(request.key));
    const byHand = request.profile || request.names.some((name) => net.isIP(name));
    const bundle = await (byHand ? manual : automatic)(client, request, csr);
    fs.writeFileSync(path.join(request.out, 'bundle.pem'), bundle);
    fs.writeFileSync(path.join(request.out, 'key.pem'), key);
    return {};
}

async function revoke(request) {
    const client = await connect(request);
    await client.createAccount(account);
    await client.revokeCertificate(fs.readFileSync(request.certificate), { reason: request.reason });
    return {};
}

async function changeKey(request) {
    const client = await connect(request);
    await client.createAccount(account);
    const key = await newKey(request.account_key);
    await client.updateAccountKey(key);
    fs.writeFileSync(request.account, key);
    return {};
}

async function deactivate(request) {
    const client = await connect(request);
    await client.createAccount(account);
    return { status: (await client.updateAccount({ status: 'deactivated' })).status };
}

const request = JSON.parse(process.argv[2]);
const actions = { obtain, revoke, change_key: changeKey, deactivate };
actions[request.action](request).then(
    (found) => console.log(JSON.stringify(found)),
    (error) => {
        console.error(error);
        process.exitCode = 1;
    },
);
