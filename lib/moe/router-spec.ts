/** How a layer's router chooses; the attributes of `route` in operations.h. */
export interface RouterSpec {
  readonly experts: number;
  /** Experts a token. */
  readonly topK: number;
  /** Of all experts, before the choice. */
  readonly score: 'softmax' | 'sigmoid';
  /** Whether the chosen gates are divided by their sum. */
  readonly renormalize: boolean;
}
