/** Follows the fixed headers of MQTT packets in a byte stream, so that an oversize packet is seen before it is buffered. */
export class FrameSizeGuard {
  readonly #maxBytes: number;
  /** Bytes of the current packet still to come after its fixed header. */
  #body = 0;
  /** Bytes of the fixed header seen: 0 before the type byte. */
  #header = 0;
  #length = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether every packet that begins in the stream up to the end of `chunk` is within the limit, header included. */
  accepts(chunk: Uint8Array): boolean {
    for (let at = 0; at < chunk.length; ) {
      if (this.#body > 0) {
        const taken = Math.min(this.#body, chunk.length - at);
        this.#body -= taken;
        at += taken;
      } else if (!this.#acceptsHeaderByte(chunk[at++] ?? 0)) return false;
    }
    return true;
  }

  #acceptsHeaderByte(byte: number): boolean {
    this.#header += 1;
    if (this.#header === 1) return true;
    this.#length += (byte & 0x7f) * 128 ** (this.#header - 2);
    if (byte >= 0x80) return this.#header < 5;
    const fits = this.#header + this.#length <= this.#maxBytes;
    this.#body = this.#length;
    this.#header = 0;
    this.#length = 0;
    return fits;
  }
}
