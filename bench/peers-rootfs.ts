/** Makes the root file system that has the peers too; run under set-up's lock, since only one may build at a time. */
import { cacheDir } from "../deploy/setup/cache.js";
import { ensureRootfs } from "../deploy/setup/rootfs.js";
import { PEER_PACKAGES } from "./stage.js";

await ensureRootfs(cacheDir(), PEER_PACKAGES);
