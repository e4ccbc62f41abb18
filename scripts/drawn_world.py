"""A drawn world: batches of product-like scenes with materials, shapes, light and defects, in plain torch.

Where in the paper: nowhere, this is ours; it feeds `pretrain_tiny_clip.py`. No image of anybody else goes in.

Every scene is drawn in several views with other phases of its materials, other light and other noise. So views share
what a patch memory must recognise (the material of a region) and nothing else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MATERIALS = ("cloudy", "brushed", "grainy", "striped", "checked", "woven", "dotted", "marbled", "plain", "rippled")
SHAPES = ("disc", "ring", "plate", "gear", "hexagon", "bar", "capsule", "star")
SURFACE = "surface"
DEFECTS = ("scratched", "stained", "cracked", "pitted", "chipped", "contaminated", "dented")
COLOURS = {
    "grey": (0.5, 0.5, 0.5), "white": (0.88, 0.88, 0.86), "black": (0.12, 0.12, 0.13), "silver": (0.7, 0.72, 0.74),
    "brown": (0.45, 0.3, 0.18), "red": (0.75, 0.18, 0.15), "green": (0.2, 0.5, 0.25), "blue": (0.18, 0.3, 0.65),
    "yellow": (0.85, 0.75, 0.25), "orange": (0.85, 0.5, 0.15), "beige": (0.8, 0.72, 0.58), "pink": (0.85, 0.55, 0.6),
}  # fmt: skip


@dataclass
class Scenes:
    """A batch of scenes, B of them in V views each.

    Attributes:
        images: (V, B, 3, S, S) in 0..1.
        regions: (V, B, S, S) long: 0 background, 1 object, 2 its inner part.
        defects: (V, B, S, S) bool, where a defect can be seen; it lies at other places in other views.
        bad: (V, B) bool, the views with a defect.
        captions: Words for each scene, without its state.
        states: The word for each scene's kind of defect, whether a view has it or not.
    """

    images: Tensor
    regions: Tensor
    defects: Tensor
    bad: Tensor
    captions: list[str]
    states: list[str]


class DrawnWorld:
    """Draws scenes; the same seed gives the same scenes on the same kind of device.

    Args:
        size: Side of a picture in pixels.
        device: Where to draw.
    """

    def __init__(self, size: int = 240, device: str | torch.device = "cpu") -> None:
        self.size, self.device = size, torch.device(device)
        side = torch.arange(size, device=self.device) / size * 2 - 1
        self.y, self.x = torch.meshgrid(side, side, indexing="ij")
        fy = torch.fft.fftfreq(size, device=self.device)[:, None] * size
        fx = torch.fft.rfftfreq(size, device=self.device)[None] * size
        self.frequency, self.direction = torch.hypot(fy, fx).clamp_min(0.5), torch.atan2(fy, fx)

    def draw(self, count: int, seed: int, defective: tuple[float, ...] = (0.0, 0.6)) -> Scenes:
        """Draw `count` scenes, each in `len(defective)` views.

        Args:
            count: B, how many scenes.
            seed: Everything follows from it.
            defective: For each view, the share of scenes that show a defect in it.
        """
        g = torch.Generator(self.device).manual_seed(seed)
        self.generator = g
        pick = lambda n: torch.randint(n, (count,), generator=g, device=self.device)  # noqa: E731
        materials = [self._material(count) for _ in range(3)]  # background, object, foreign matter
        shape, has_object = pick(len(SHAPES)), self._u(count) < 0.6
        plain = has_object & (self._u(count) < 0.4)  # many products lie on a plain ground
        materials[0]["kind"][plain] = MATERIALS.index("plain")
        geometry = {"size": 0.5 + 0.4 * self._u(count), "aspect": 0.35 + 0.4 * self._u(count), "teeth": pick(8) + 5,
                    "hole": 0.25 + 0.4 * self._u(count), "turns": self._u(count) < 0.5,
                    "step": torch.where(self._u(count) < 0.5, 0.05 + 0.2 * self._u(count), 9.0),
                    "tint": (self._u(count, 3) - 0.5) * 0.3 + (self._u(count, 1) - 0.5) * 0.6}  # fmt: skip
        camera = {"grey": self._u(count) < 0.3, "blur": self._u(count), "noise": 0.04 * self._u(count) ** 2,
                  "free": self._u(count) < 0.5, "glow": 0.3 * self._u(count)}  # fmt: skip
        kind, angle = pick(len(DEFECTS)), self._u(count) * 6.2832
        bad = torch.stack([self._u(count) < share for share in defective])
        views = [self._view(materials, shape, has_object, geometry, camera, kind, b, angle) for b in bad]
        images, regions, defects = (torch.stack(parts) for parts in zip(*views, strict=True))
        captions = []
        for i in range(count):
            layer = materials[1 if has_object[i] else 0]
            thing = SHAPES[shape[i]] if has_object[i] else SURFACE
            colour = "grey" if camera["grey"][i] else layer["colour"][i]
            captions.append(f"{colour} {MATERIALS[layer['kind'][i]]} {thing}")
        return Scenes(images, regions, defects, bad, captions, [DEFECTS[k] for k in kind.tolist()])

    # -- pieces -------------------------------------------------------------------------------------------------

    def _u(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def _noise(self, low: Tensor, high: Tensor, slope: Tensor, angle: Tensor, spread: Tensor) -> Tensor:
        """Band-passed noise (B, S, S) of unit deviation; waves keep to `angle` within `spread`."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        white = torch.fft.rfft2(
            torch.randn(len(low), self.size, self.size, generator=self.generator, device=self.device)
        )
        f = self.frequency
        band = f ** -v(slope) / (1 + (v(low) / f) ** 4) / (1 + (f / v(high)) ** 4)
        band = band * torch.exp(-(torch.sin(self.direction - v(angle)) ** 2) / (2 * v(spread) ** 2))
        noise = torch.fft.irfft2(white * band, s=(self.size, self.size))
        return noise / noise.flatten(1).std(dim=1).clamp_min(1e-6).view(-1, 1, 1)

    def _material(self, count: int) -> dict:
        names = list(COLOURS)
        table = torch.tensor(list(COLOURS.values()), device=self.device)
        index = torch.randint(len(names), (count,), generator=self.generator, device=self.device)
        index[self._u(count) < 0.3] = torch.randint(4, (1,), generator=self.generator, device=self.device)
        base = (table[index] + 0.08 * torch.randn(count, 3, generator=self.generator, device=self.device)).clamp(
            0.03, 0.97
        )
        other = (base + (self._u(count, 3) - 0.5) * 0.25 + (self._u(count, 1) - 0.5) * 0.7).clamp(0.02, 0.98)
        return {
            "kind": torch.randint(len(MATERIALS), (count,), generator=self.generator, device=self.device),
            "colour": [names[i] for i in index.tolist()],
            "base": base,
            "other": other,
            "low": 1 + 6 * self._u(count),
            "high": 8 * 12 ** self._u(count),
            "slope": 0.5 + 1.3 * self._u(count),
            "angle": self._u(count) * 3.1416,
            "period": 6 * 9 ** self._u(count),
            "sharp": 1 + 6 * self._u(count),
            "contrast": 0.08 + 0.9 * self._u(count) ** 1.5,
            "grain": 0.15 * self._u(count) ** 2,
        }

    def _paint(self, m: dict, turn: Tensor) -> Tensor:
        """One view (B, 3, S, S) of a material, with fresh phases."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        count = len(turn)
        kind, angle = m["kind"], m["angle"] + turn
        u = self.x * v(angle.cos()) + self.y * v(angle.sin()) + v(self._u(count))
        w = -self.x * v(angle.sin()) + self.y * v(angle.cos()) + v(self._u(count))
        brushed, grainy = kind == 1, kind == 2  # one noise a material, of the kind it needs
        noise = self._noise(
            torch.where(grainy, m["high"] * 1.5, torch.where(brushed, m["high"] * 0.5, m["low"])),
            torch.where(grainy, m["high"] * 4, torch.where(brushed, m["high"] * 2, m["high"])),
            torch.where(grainy, 0, m["slope"] * torch.where(brushed, 0.3, 1.0)),
            angle + 1.5708,
            torch.where(brushed, 0.12, 99.0),
        )
        waves, across = torch.sin(v(m["period"]) * 3.1416 * u), torch.sin(v(m["period"]) * 3.1416 * w)
        sharp = v(m["sharp"])
        phase = v(m["period"])
        formulas = (
            None, None, None,  # cloudy, brushed, grainy: the noise itself
            lambda i: torch.tanh(sharp[i] * waves[i]),
            lambda i: torch.tanh(sharp[i] * waves[i] * across[i]),
            lambda i: torch.where(waves[i] * across[i] > 0, waves[i], across[i]),
            lambda i: torch.tanh(sharp[i] * (waves[i] + across[i] - 0.8)),
            lambda i: torch.sin(3 * noise[i] + phase[i] * u[i]),
            lambda i: 0.1 * noise[i],
            lambda i: torch.sin(phase[i] * 3.1416 * u[i] + 1.5 * noise[i]),
        )  # fmt: skip
        field = noise.clone()
        for k, formula in enumerate(formulas):
            chosen = torch.nonzero(kind == k).flatten()
            if formula is not None and len(chosen):
                field[chosen] = formula(chosen)
        mix = (0.5 + 0.5 * v(m["contrast"]) * field + v(m["grain"]) * torch.randn(
            field.shape, generator=self.generator, device=self.device)).clamp(0, 1)[:, None]  # fmt: skip
        return m["base"][..., None, None] * (1 - mix) + m["other"][..., None, None] * mix

    def _distance(self, shape: Tensor, g: dict, turn: Tensor) -> Tensor:
        """Signed distance (B, S, S) to the object's border, negative inside."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        shift = (self._u(2, len(turn)) - 0.5) * 0.16
        x0, y0 = self.x - v(shift[0]), self.y - v(shift[1])
        x, y = x0 * v(turn.cos()) + y0 * v(turn.sin()), -x0 * v(turn.sin()) + y0 * v(turn.cos())
        r, phi, size = torch.hypot(x, y), torch.atan2(y, x), v(g["size"])
        disc = r - size
        box = lambda a, b: torch.maximum(x.abs() - a, y.abs() - b)  # noqa: E731
        sector = 6.2832 / 6
        hexagon = r * torch.cos((phi % sector) - sector / 2) - size * 0.9
        capsule = torch.hypot((x.abs() - size * 0.5).clamp_min(0), y) - size * v(g["aspect"]) * 0.7
        teeth = v(g["teeth"].float())
        options = torch.stack(
            [
                disc,
                torch.maximum(disc, size * v(g["hole"]) - r),
                box(size, size * (0.5 + v(g["aspect"]) * 0.6)),
                torch.maximum(
                    r - size * (0.88 + 0.1 * torch.tanh(4 * torch.sin(teeth * phi))), size * v(g["hole"]) - r
                ),
                torch.maximum(
                    hexagon, v(torch.where(g["turns"], g["hole"] * g["size"] * 0.8, -9.0 + 0 * g["hole"])) - r
                ),
                box(size, size * v(g["aspect"]) * 0.5),
                capsule,
                r - size * (0.75 + 0.22 * torch.cos(5 * phi)),
            ]
        )
        return options[shape, torch.arange(len(turn), device=self.device)]

    def _defect(self, kind: Tensor, distance: Tensor, on_object: Tensor) -> Tensor:
        """Soft mask (B, S, S) of a defect that lies on the object, or anywhere on a surface."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        count = len(kind)
        # A random place on the part: the maximum of noise inside it. A chip sits at its border.
        deep = torch.where(v(on_object), distance, distance * 0 - 1)
        chip = v((kind == DEFECTS.index("chipped")) & on_object)
        place = (deep < -0.02) & ((deep > -0.07) | ~chip) & (self.x.abs() < 0.93) & (self.y.abs() < 0.93)
        spot = (self._u(count, self.size, self.size) * place).flatten(1).argmax(dim=1)
        cx, cy = self.x.flatten()[spot], self.y.flatten()[spot]
        angle, length = self._u(count) * 6.2832, 0.1 + 0.5 * self._u(count)
        x, y = self.x - v(cx), self.y - v(cy)
        along, off = x * v(angle.cos()) + y * v(angle.sin()), -x * v(angle.sin()) + y * v(angle.cos())
        wobble = self._noise(*(c + 0 * length for c in (2, 20, 1, 0, 99)))
        bend = off + v((self._u(count) - 0.5) * 2) * along**2
        width = 0.006 + 0.02 * self._u(count)
        line = lambda d, w: (along.abs() < v(length)).float() * torch.sigmoid((v(w) - d.abs()) * 200)  # noqa: E731
        r, size = torch.hypot(x, y), 0.03 + 0.16 * self._u(count) ** 1.5
        blob = torch.sigmoid((v(size) * (1 + 0.35 * wobble) - r) * 120)
        options = torch.stack(
            [line(bend, width), blob, line(bend + 0.06 * wobble, width * 0.8),
             torch.sigmoid((v(size) * 0.5 - r) * 150), blob, blob,
             torch.exp(-((r / v(size * 0.8)) ** 2))]
        )  # fmt: skip
        return options[kind, torch.arange(count, device=self.device)]

    def _view(self, materials, shape, has_object, geometry, camera, kind, bad, angle):  # noqa: ANN001, ANN202
        """One view: images (B, 3, S, S), regions (B, S, S), visible defects (B, S, S)."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        count = len(kind)
        turn = angle + torch.where(camera["free"], self._u(count) * 6.2832, 0.1 * self._u(count))
        back, body, foreign = (self._paint(m, 0.1 * turn) for m in materials)
        distance = torch.where(v(has_object), self._distance(shape, geometry, turn), torch.ones_like(self.x))
        inside, inner = (torch.sigmoid(-(distance + v(d)) * 120) for d in (0 * geometry["step"], geometry["step"]))
        body = body + geometry["tint"][..., None, None] * inner[:, None]
        facing = self.x * v(turn.sin()) + self.y * v(turn.cos())
        bevel = facing * (torch.exp(-((distance / 0.05) ** 2))
                          + 0.7 * torch.exp(-(((distance + v(geometry["step"])) / 0.03) ** 2)))  # fmt: skip
        shadow = torch.sigmoid(-(distance.roll((6, 5), dims=(1, 2)) - 0.02) * 18) * (1 - inside)
        picture = back * (1 - 0.45 * shadow[:, None] * v(self._u(count))[:, None])
        picture = picture * (1 - inside[:, None]) + (body * (1 + 0.5 * bevel[:, None])).clamp(0, 1) * inside[:, None]
        spoilt, soft = self._spoil(picture, back, foreign, distance, inside, has_object, kind, bad)
        seen = (soft > 0.3) & ((spoilt - picture).abs().mean(dim=1) > 0.03)  # matter of the same colour is no defect
        picture = spoilt
        light = 1 + 0.2 * (v(self._u(count) - 0.5) * self.x + v(self._u(count) - 0.5) * self.y) * 2
        glow = v(camera["glow"]) * torch.exp(
            -((self.x - v(self._u(count) - 0.5)) ** 2 + (self.y - v(self._u(count) - 0.5)) ** 2) / 0.1
        )
        picture = picture * light[:, None] + (glow * inside)[:, None]
        gain, offset = 0.92 + 0.16 * self._u(count), 0.05 * (self._u(count) - 0.5)
        picture = picture * v(gain)[:, None] + v(offset)[:, None]
        picture = torch.where(v(camera["grey"])[:, None], picture.mean(dim=1, keepdim=True), picture)
        blurred = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, 1)
        picture = torch.lerp(picture, blurred, v(camera["blur"])[:, None])
        noise = torch.randn(picture.shape, generator=self.generator, device=self.device)
        picture = picture + v(camera["noise"] * (0.7 + 0.6 * self._u(count)))[:, None] * noise
        regions = (inside > 0.5).long() + ((inner > 0.5) & (inside > 0.5)).long()
        return picture.clamp(0, 1), regions, seen

    def _spoil(self, picture, back, foreign, distance, inside, has_object, kind, bad):  # noqa: ANN001, ANN202
        """Put a defect on the views that are `bad`: the pictures (B, 3, S, S) and the soft masks (B, S, S)."""
        v = lambda t: t.view(-1, 1, 1)  # noqa: E731
        count = len(kind)
        covered = torch.where(v(has_object), inside, torch.ones_like(inside)) > 0.5
        soft = self._defect(kind, distance, has_object) * v(bad.float()) * covered
        strength = v(0.35 + 0.65 * self._u(count))[:, None]
        tint = v(torch.where(self._u(count) < 0.6, -1.0, 1.0) * (0.2 + 0.5 * self._u(count)))[:, None]
        chip = (kind == DEFECTS.index("chipped")) & has_object
        stain = (kind == DEFECTS.index("stained")) & (tint.flatten() > 0)
        matter = torch.where(v(chip)[:, None], back, foreign)
        replaced = v((kind == DEFECTS.index("contaminated")) | chip | stain)
        mark = torch.where(replaced[:, None], matter, (picture + tint).clamp(0, 1))
        return picture + (mark - picture) * (soft[:, None] * strength), soft
