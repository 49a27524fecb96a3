#!/usr/bin/env python3
"""Writes the golden values of weight updates: plain float64 numpy of the published algorithms, a row at a time, nothing shared with the kernels.

usage: make_update_golden.py [OUT=Tests/Golden/updates.safetensors]

Three seeded layers a, b, c of correlated inputs: `W` (rows x columns) and `G` = X^T X, exact in float32, the number of `tokens` of X and the `means`
of its columns; `wanda`: the mask that every refinement starts from; then NAME.mask (bytes) and NAME.weights for NAME in
  fit      the kept weights fitted on `wanda`: argmin (w - w')^T G (w - w') + damping mean(diag G) |w - w'|^2
  obs      SparseGPT (arXiv 2301.00774, algorithm 1), blocks of 16 columns, exact counts in every row and block
  obs.all  the same for layers with a count per row, chosen over all rows of a block of columns, as the published code does
  admm     ADMM with a penalty that grows by how much the mask moves (after ALPS, arXiv 2406.07831) from the 5 % quantile of
           the eigenvalues, then fitted on its mask
and dsnot.mask (arXiv 2310.08915; threshold relative to the root mean square error, a move must lower the expected error).
"""
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file

DAMPING, BLOCK = 0.01, 16
LAYERS = {'a': (16, 40, 120, 0.5, None), 'b': (12, 32, 96, None, (2, 4)), 'c': (10, 48, 30, 0.625, None)}

def layer(seed, rows, columns, tokens):
    random = np.random.default_rng(seed)
    x = random.normal(size=(tokens, columns)) @ (np.eye(columns) + 0.9 * random.normal(size=(columns, columns)) / columns ** 0.5)
    x = x * np.exp(0.7 * random.normal(size=columns)) + 0.3 * random.normal(size=columns)
    # Few digits, so that G is exact in float32 too.
    x = np.round(x * 32) / 32
    w = np.float64(np.float32(random.normal(size=(rows, columns)) / columns ** 0.5))
    g = x.T @ x
    assert (np.float32(g) == g).all()
    return w, x, g

def largest(scores, keep):
    """1 for the `keep` largest of each row; of equals the lower index goes."""
    order = np.argsort(scores, axis=1, kind='stable')[:, scores.shape[1] - keep:]
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask

def choose(scores, sparsity, groups):
    if groups:
        keep, of = groups
        return largest(scores.reshape(-1, of), keep).reshape(scores.shape)
    return largest(scores, scores.shape[1] - int(scores.shape[1] * sparsity))

def fit(w, g, mask):
    damped = g + DAMPING * np.mean(np.diag(g)) * np.eye(len(g))
    new = np.where(mask, w, 0)
    for row in range(len(w)):
        kept, gone = np.flatnonzero(mask[row]), np.flatnonzero(~mask[row])
        if len(kept): new[row, kept] += np.linalg.solve(damped[np.ix_(kept, kept)], g[np.ix_(kept, gone)] @ w[row, gone])
    return new

def obs(w, g, sparsity, groups, over_all):
    """Every column is reached with the inverse of H without the columns before it."""
    w, n = w.copy(), len(g)
    hessian = g + DAMPING * np.mean(np.diag(g)) * np.eye(n)
    inverse = [np.linalg.inv(hessian[j:, j:]) for j in range(n)]
    cost = lambda rows, start, end: w[rows, start:end] ** 2 / np.array([inverse[j][0, 0] for j in range(start, end)])
    mask = np.ones(w.shape, dtype=bool)
    for start in range(0, n, BLOCK):
        end = min(n, start + BLOCK)
        if not groups:
            gone = int(n * sparsity); count = gone * end // n - gone * start // n
            scores = cost(slice(None), start, end)
            if over_all: mask[:, start:end] = largest(scores.reshape(1, -1), scores.size - count * len(w)).reshape(scores.shape)
            else: mask[:, start:end] = largest(scores, end - start - count)
        for j in range(start, end):
            if groups and j % groups[1] == 0: mask[:, j:j + groups[1]] = largest(cost(slice(None), j, j + groups[1]), groups[0])
            error = np.where(mask[:, j], 0, w[:, j] / inverse[j][0, 0])
            w[:, j:] -= error[:, None] * inverse[j][0][None]
            w[~mask[:, j], j] = 0
    return mask, w

def admm(w, g, sparsity, groups, limit=300):
    n = len(g)
    damped = g + DAMPING * np.mean(np.diag(g)) * np.eye(n)
    scale = np.sqrt(np.diag(damped))
    unit = damped / scale[:, None] / scale
    penalty = max(0.01, np.linalg.eigvalsh(unit)[int(0.05 * n)])
    masks = []
    for row in w * scale:
        dense, rho, before = row, penalty, None
        mask = choose(np.abs(row)[None], sparsity, groups)[0]
        sparse, dual = row * mask, np.zeros(n)
        for step in range(1, limit + 1):
            dense = np.linalg.solve(unit + rho * np.eye(n), unit @ row + rho * (sparse - dual))
            mask = choose(np.abs(dense + dual)[None], sparsity, groups)[0]
            sparse = np.where(mask, dense + dual, 0)
            dual = dense + dual - sparse
            if step % 3: continue
            if before is not None and (mask == before).all() and np.linalg.norm(dense - sparse) <= 0.1 * np.linalg.norm(sparse): break
            moved = 1 if before is None else (mask != before).sum() / max(1, mask.sum())
            growth = 1.3 if moved >= 0.1 or moved == 0 else 1.2 if moved >= 0.005 else 1.1
            before, rho, dual = mask, rho * growth, dual / growth
        masks.append(mask)
    mask = np.array(masks)
    return mask, fit(w, g, mask)

def dsnot(w, x, mask, groups, cycles=50, threshold=0.1):
    means, squares = x.mean(0), (x * x).mean(0)
    mask = mask.copy()
    for row, kept in zip(w, mask):
        part, salience = row * means, row ** 2 * squares
        strength = part / (squares - means ** 2)
        free, candidates = ~kept, kept.copy()
        error, enough = part[~kept].sum(), threshold * np.sqrt(salience[~kept].sum())
        moves = 0
        while moves < cycles and abs(error) > enough:
            sign = np.sign(error)
            grow = np.flatnonzero(free & (sign * part > 0))
            if not len(grow): break
            grown = grow[np.argmax(sign * strength[grow])]
            free[grown] = False
            if groups: prune = np.flatnonzero(candidates & (np.arange(len(row)) // groups[1] == grown // groups[1]))
            else: prune = np.flatnonzero(candidates & (sign * part < 0))
            if not len(prune):
                if groups: continue
                break
            pruned = prune[np.argmin(salience[prune])]
            after = error - part[grown] + part[pruned]
            if abs(after) >= abs(error): break
            candidates[pruned], kept[grown], kept[pruned], error, moves = False, True, False, after, moves + 1
    return mask

def main(path):
    tensors = {}
    for name, (rows, columns, tokens, sparsity, groups) in LAYERS.items():
        w, x, g = layer(ord(name), rows, columns, tokens)
        wanda = choose(np.abs(w) * np.sqrt(np.diag(g)), sparsity, groups)
        made = {'W': w, 'G': g, 'tokens': np.array([len(x)], dtype=np.float64), 'means': x.mean(0), 'wanda': wanda, 'fit.weights': fit(w, g, wanda), 'dsnot.mask': dsnot(w, x, wanda, groups)}
        made['obs.mask'], made['obs.weights'] = obs(w, g, sparsity, groups, False)
        if not groups: made['obs.all.mask'], made['obs.all.weights'] = obs(w, g, sparsity, groups, True)
        made['admm.mask'], made['admm.weights'] = admm(w, g, sparsity, groups)
        tensors.update({f'{name}.{key}': np.ascontiguousarray(value.astype(np.uint8) if value.dtype == bool else value) for key, value in made.items()})
    save_file(tensors, path)
    print('wrote', path, len(tensors))

if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent.parent / 'Tests/Golden/updates.safetensors'))
