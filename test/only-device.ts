/**
 * The one device that NODE_MOE_TEST_DEVICE names ('simt', 'cuda:1'), for the tests that run on any device; undefined: `cpu` and
 * `reference` are tested.
 */
export const onlyDevice: string | undefined = process.env.NODE_MOE_TEST_DEVICE || undefined;
