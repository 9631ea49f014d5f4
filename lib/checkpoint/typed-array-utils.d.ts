/** typed-array-utils ships its sources, which tsc takes before its declarations; they name this type of the DOM library. */
type BufferSource = ArrayBufferView | ArrayBuffer;
