"""Tables, points, graphs, rays and sets of queries: several inputs, mixed dtypes, few convolutions."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.subject import BATCH, Subject, awake, axis, integers, named, normal
from zoo.vision import block


def mlp(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[layer for i, o in pairs for layer in (nn.Linear(i, o), nn.ReLU())][:-1])


class _Dlrm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 16) for _ in range(4))
        self.bottom, self.top = mlp(6, 32, 16), mlp(16 + 10, 32, 1)
        self.register_buffer("pairs", torch.tril_indices(5, 5, -1), persistent=False)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        rows = torch.stack([x, *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1)
        products = rows @ rows.transpose(1, 2)
        return self.top(torch.cat([x, products[:, self.pairs[0], self.pairs[1]]], 1)).sigmoid()[:, 0]


def dlrm() -> Subject:
    """Naumov et al. 2019, Deep Learning Recommendation Model."""
    example = {"dense": normal(3, 6), "sparse": integers(50, 3, 4)}
    return awake(_Dlrm(), example, {"dense": {0: BATCH}, "sparse": {0: BATCH}})


class _WideDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(80, 12), nn.Embedding(60, 12)
        self.bags = nn.EmbeddingBag(40, 12, mode="mean")
        self.deep = nn.Sequential(nn.Linear(36 + 5, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1))
        self.wide = nn.Linear(5 * 4 // 2, 1)

    def forward(self, user: Tensor, item: Tensor, history: Tensor, numbers: Tensor) -> Tensor:
        deep = self.deep(torch.cat([self.user(user), self.item(item), self.bags(history), numbers], 1))
        first, second = torch.triu_indices(5, 5, 1)
        return deep + self.wide(numbers[:, first] * numbers[:, second])  # crossed features


def wide_and_deep() -> Subject:
    """Cheng et al. 2016, Wide and Deep Learning for Recommender Systems."""
    example = {
        "user": integers(80, 3), "item": integers(60, 3), "history": integers(40, 3, 6), "numbers": normal(3, 5)
    }  # fmt: skip
    dynamic = {name: {0: BATCH} for name in example}
    dynamic["history"] = {0: BATCH, 1: axis("items", 1, 20)}
    return awake(_WideDeep(), example, dynamic)


class _Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            block(1, 16, 3, 2), block(16, 32, 3, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 24)
        )

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        a, b = F.normalize(self.tower(left)), F.normalize(self.tower(right))
        return {"cosine": F.cosine_similarity(a, b), "distance": torch.cdist(a[:, None], b[:, None])[:, 0, 0]}


def siamese() -> Subject:
    """Koch et al. 2015, Siamese Neural Networks for One-shot Image Recognition."""
    example = {"left": normal(2, 1, 32, 32), "right": normal(2, 1, 32, 32, seed=1)}
    return awake(_Siamese(), example, {"left": {0: BATCH}, "right": {0: BATCH}})


class _TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = (
            nn.Sequential(nn.Embedding(80, 24), mlp(24, 32, 16)),
            nn.Sequential(nn.Embedding(60, 24), mlp(24, 32, 16)),
        )

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.user(users) @ self.item(items).T
        return scores, scores.topk(3, dim=1).values


def two_tower() -> Subject:
    """Covington et al. 2016, Deep Neural Networks for YouTube Recommendations (retrieval by two towers)."""
    example = {"users": integers(80, 4), "items": integers(60, 7)}
    return awake(_TwoTower(), example, {"users": {0: BATCH}, "items": {0: axis("candidates", 3, 40)}})


class _PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.matrix = mlp(32, 32, 9)
        self.local = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv1d(32, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Conv1d(96, 5, 1)

    def forward(self, points: Tensor) -> Tensor:  # (batch, 3, points) -> a class for each point
        turn = self.matrix(self.turn(points).amax(2)).view(-1, 3, 3) + torch.eye(3, device=points.device)
        near = self.local(torch.bmm(turn, points))
        everything = self.wide(near).max(2, keepdim=True).values.expand(-1, -1, points.shape[2])
        return self.head(torch.cat([near, everything], 1))


def pointnet() -> Subject:
    """Qi et al. 2016, PointNet (segmentation, with the input transform)."""
    return awake(_PointNet(), {"points": normal(2, 3, 32)}, {"points": {0: BATCH, 2: axis("points", 2, 200)}})


class _Gcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        linked = adjacency.abs() + torch.eye(adjacency.shape[-1], device=adjacency.device)
        scale = linked.sum(-1).rsqrt()
        linked = scale[:, :, None] * linked * scale[:, None]
        return linked @ self.second(F.relu(linked @ self.first(features)))


def gcn() -> Subject:
    """Kipf and Welling 2016, Semi-Supervised Classification with Graph Convolutional Networks (dense adjacency)."""
    nodes = axis("nodes", 2, 48)
    example = {"features": normal(2, 9, 8), "adjacency": normal(2, 9, 9, seed=1)}
    return awake(_Gcn(), example, {"features": {0: BATCH, 1: nodes}, "adjacency": {0: BATCH, 1: nodes, 2: nodes}})


class _Gat(nn.Module):
    def __init__(self, heads: int = 4, width: int = 8) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.project, self.head = nn.Linear(8, heads * width), nn.Linear(heads * width, 4)
        self.left, self.right = nn.Parameter(torch.zeros(heads, width)), nn.Parameter(torch.zeros(heads, width))

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        batch, nodes, _ = features.shape
        x = self.project(features).view(batch, nodes, self.heads, self.width)
        a, b = torch.einsum("bnhw,hw->bhn", x, self.left), torch.einsum("bnhw,hw->bhn", x, self.right)
        itself = torch.eye(nodes, dtype=torch.bool, device=edges.device)
        scores = F.leaky_relu(a[..., None] + b[..., None, :], 0.2).masked_fill(~(edges | itself)[:, None], -torch.inf)
        y = torch.einsum("bhnm,bmhw->bnhw", scores.softmax(-1), x)
        return self.head(F.elu(y.flatten(2)))


def gat() -> Subject:
    """Velickovic et al. 2017, Graph Attention Networks (boolean edges)."""
    nodes = axis("nodes", 2, 48)
    example = {"features": normal(2, 9, 8), "edges": normal(2, 9, 9, seed=1) > 0}
    return awake(_Gat(), example, {"features": {0: BATCH, 1: nodes}, "edges": {0: BATCH, 1: nodes, 2: nodes}})


class _Nerf(nn.Module):
    """Colour and density along rays, and the pixel they add up to."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.again = mlp(3 * 8, 48, 48), mlp(48 + 3 * 8, 48, 48)
        self.density, self.color = nn.Linear(48, 1), mlp(48 + 3 * 4, 24, 3)

    def forward(self, points: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:  # (rays, samples, 3), (rays, 3)
        at, along = self._waves(points, 4), self._waves(direction, 2)
        x = F.relu(self.trunk(at))
        x = F.relu(self.again(torch.cat([x, at], -1)))
        density = F.softplus(self.density(x))[..., 0]
        color = self.color(torch.cat([x, along[:, None].expand(-1, x.shape[1], -1)], -1)).sigmoid()
        opaque = 1 - torch.exp(-density * 0.1)
        passed = torch.cumprod(torch.cat([torch.ones_like(opaque[:, :1]), 1 - opaque[:, :-1]], 1), 1)
        weights = opaque * passed
        return (weights[..., None] * color).sum(1), weights

    @staticmethod
    def _waves(x: Tensor, octaves: int) -> Tensor:
        scaled = x[..., None] * 2.0 ** torch.arange(octaves, device=x.device)
        return torch.cat([scaled.sin(), scaled.cos()], -1).flatten(-2)


def nerf() -> Subject:
    """Mildenhall et al. 2020, NeRF (with the compositing along a ray)."""
    rays = axis("rays", 1, 64)
    example = {"points": normal(3, 8, 3), "direction": normal(3, 3, seed=1)}
    return awake(_Nerf(), example, {"points": {0: rays, 1: axis("samples", 2, 48)}, "direction": {0: rays}})


class _Detr(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(3, 16, 3, 2), block(16, 24, 3, 2), block(24, 32, 3, 2))
        self.project = nn.Conv2d(32, width, 1)
        self.rows, self.columns = nn.Parameter(torch.zeros(16, width // 2)), nn.Parameter(torch.zeros(16, width // 2))
        self.queries = nn.Parameter(torch.zeros(10, width))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 64, batch_first=True), 1, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, 4, 64, batch_first=True), 2, nn.LayerNorm(width)
        )
        self.classes, self.boxes = nn.Linear(width, 6), mlp(width, 32, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.project(self.backbone(image))
        batch, _, height, width = x.shape
        columns, rows = self.columns[:width].expand(height, -1, -1), self.rows[:height, None].expand(-1, width, -1)
        places = torch.cat([columns, rows], -1).flatten(0, 1)
        memory = self.encoder(x.flatten(2).transpose(1, 2) + places)
        found = self.decoder(self.queries.expand(batch, -1, -1), memory)
        return {"logits": self.classes(found), "boxes": self.boxes(found).sigmoid()}


def detr() -> Subject:
    """Carion et al. 2020, End-to-End Object Detection with Transformers."""
    axes = {0: BATCH, 2: axis("height", 32, 96), 3: axis("width", 32, 96)}
    return awake(_Detr(), {"image": normal(2, 3, 64, 48)}, {"image": axes})


ZOO = named("after the paper", dlrm, wide_and_deep, siamese, two_tower, pointnet, gcn, gat, nerf, detr)
