export function occupancy(
  architecture: string,
  kernel: { readonly registers: number; readonly shared: number },
  block: { readonly threads?: number; readonly shared?: number },
): number | undefined;
