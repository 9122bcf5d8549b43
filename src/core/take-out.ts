/** Takes the first `one` out of the list; false when it is not in there. */
export function takeOut<T>(list: T[], one: T): boolean {
  const at = list.indexOf(one);
  if (at < 0) return false;
  list.splice(at, 1);
  return true;
}
