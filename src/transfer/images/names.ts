/**
 * Which files of a criu image directory are carried: flat names of one fixed pattern. It covers every name that criu
 * 4.2 writes (image-desc.c): "inventory.img", "core-12.img", "pages-1.img", "ghost-file-1f.img", "tmpfs-4.tar.gz.img",
 * "ip6tables-9.img"... Logs, sockets, statistics and Ferry's own files beside them stay where they are.
 */
const IMAGE_NAME = /^[a-z0-9][a-z0-9._-]{0,123}\.img$/;

/** `..` can't do harm without a slash; refused all the same, no name of criu has it. */
export const isImageName = (name: unknown): name is string =>
  typeof name === "string" && IMAGE_NAME.test(name) && !name.includes("..");

/** More files or bytes than any workload Ferry can move would have: refused before anything is written. */
export const MAX_IMAGE_FILES = 100_000;
export const MAX_IMAGE_BYTES = 1024 ** 4;
