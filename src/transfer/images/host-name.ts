/** The host name in criu's images: a clone has its own. */
import { framed, messages, naming } from "./criu.js";
import { encodeVarint, readMessage } from "./protobuf.js";

const UTS = /^utsns-[0-9]+\.img$/;
/** Of criu's utsns.proto. */
const NODE_NAME = 1;

/** The image as it is, or with another host name if it is one of an UTS namespace. */
export function renameHost(file: string, image: Buffer, name: string): Buffer {
  if (!UTS.test(file)) return image;
  return naming(file, () => {
    const head = Buffer.alloc(8);
    image.copy(head, 0, 0, 8);
    const parts: Buffer[] = [head];
    for (const entry of messages(file, image, "utsns")) {
      const fields: Buffer[] = [];
      readMessage(entry, ({ number, raw }) => {
        const text = Buffer.from(name);
        if (number !== NODE_NAME) fields.push(raw);
        else fields.push(Buffer.concat([encodeVarint(NODE_NAME * 8 + 2), encodeVarint(text.length), text]));
      });
      parts.push(...framed(Buffer.concat(fields)));
    }
    return Buffer.concat(parts);
  });
}
