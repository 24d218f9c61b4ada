/** Tests of this folder run in the guest of `npm run test:vm` only. */
export const notInGuest = process.env["FERRY_VM"] === "1" ? false : "runs in a guest: npm run test:vm";
