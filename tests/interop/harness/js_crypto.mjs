// What a person at matrix-js-sdk does about keys: cross-signing, recovery, backup, verification.

import {
    CryptoEvent,
    decodeRecoveryKey,
    VerificationPhase,
    VerificationRequestEvent,
    VerifierEvent,
} from "matrix-js-sdk/lib/crypto-api/index.js";

// The key of secret storage, once this person has made it or typed it in.
let recoveryKey;
let request, sas;

export const callbacks = {
    getSecretStorageKey: async ({ keys }) => (recoveryKey ? [Object.keys(keys)[0], recoveryKey] : null),
    cacheSecretStorageKey: (_id, _info, key) => (recoveryKey = key),
};

// Hears of verifications that others ask for.
export function listen(client) {
    client.on(CryptoEvent.VerificationRequestReceived, follow);
}

// Takes part in a verification as far as no person is needed.
function follow(asked) {
    request = asked;
    sas = undefined;
    request.on(VerificationRequestEvent.Change, () => request.verifier && !sas && showSas(request.verifier));
}

function showSas(verifier) {
    sas = { shown: verifier.getShowSasCallbacks() };
    verifier.on(VerifierEvent.ShowSas, (shown) => (sas.shown = shown));
    verifier.verify().catch((error) => console.error("verification ended", error));
}

// Repeats a request with the password when the server wants to know that it is really them.
const withPassword = (name, password) => async (makeRequest) => {
    try {
        return await makeRequest(null);
    } catch (refusal) {
        if (refusal.httpStatus !== 401) throw refusal;
        const identifier = { type: "m.id.user", user: name };
        return makeRequest({ type: "m.login.password", session: refusal.data.session, identifier, password });
    }
};

export const verbs = (client) => {
    const keys = () => client().getCrypto();

    return {
        // Makes cross-signing keys, secret storage and a backup; gives the recovery key.
        async bootstrap(name, password) {
            await keys().bootstrapCrossSigning({ authUploadDeviceSigningKeys: withPassword(name, password) });
            const made = await keys().createRecoveryKeyFromPassphrase();
            await keys().bootstrapSecretStorage({
                createSecretStorageKey: async () => made,
                setupNewSecretStorage: true,
                setupNewKeyBackup: true,
            });
            return made.encodedPrivateKey;
        },

        // Types the recovery key into a new device: it signs itself and reads the backup.
        async recover(key) {
            recoveryKey = decodeRecoveryKey(key);
            await keys().bootstrapCrossSigning({});
            await keys().checkKeyBackupAndEnable();
            await keys().loadSessionBackupPrivateKeyFromSecretStorage();
            return (await keys().restoreKeyBackup()).imported;
        },

        // How many the server has now; the SDK itself remembers an older answer.
        async keys_in_backup() {
            const prefix = "/_matrix/client/v3";
            const path = "/room_keys/version";
            return (await client().http.authedRequest("GET", path, undefined, undefined, { prefix })).count;
        },

        async is_ready() {
            return (await keys().isCrossSigningReady()) && (await keys().isSecretStorageReady());
        },

        // The devices of somebody that would be sent keys, and whether this device trusts them.
        async devices_of(userId) {
            const devices = (await keys().getUserDeviceInfo([userId], true)).get(userId) ?? new Map();
            const status = (id) => keys().getDeviceVerificationStatus(userId, id);
            const rows = [...devices.keys()].map(async (id) => [id, (await status(id))?.crossSigningVerified ?? false]);
            return Object.fromEntries(await Promise.all(rows));
        },

        async trusts(userId) {
            return (await keys().getUserVerificationStatus(userId)).isCrossSigningVerified();
        },

        async remove_device(deviceId, name, password) {
            await withPassword(name, password)((auth) => client().deleteDevice(deviceId, auth ?? undefined));
        },

        async ask_verification(userId, roomId) {
            const own = userId === client().getUserId();
            follow(own ? await keys().requestOwnUserVerification() : await keys().requestVerificationDM(userId, roomId));
        },

        async accept_verification() {
            await request.accept();
        },

        async start_sas() {
            await request.startVerification("m.sas.v1");
        },

        // Where the verification stands: its phase, and the emoji as soon as there are some.
        async verification() {
            return { phase: request ? VerificationPhase[request.phase] : "none", emoji: sas?.shown?.sas.emoji ?? null };
        },

        async confirm_sas() {
            await sas.shown.confirm();
        },
    };
};
