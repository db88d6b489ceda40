// What a person at matrix-js-sdk does about keys.

export const callbacks = {};

export const verbs = (_client, _settings) => ({});
