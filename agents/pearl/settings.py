"""Settings of PEARL."""

from dataclasses import dataclass

from mtrl.config import check_at_least, check_fraction, check_positive

__all__ = ["PEARL"]


@dataclass(frozen=True, kw_only=True)
class PEARL:
    """Networks and updates of PEARL (Rakelly et al. 2019)."""

    latent: int = 5
    """Numbers that stand for a task."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of actor and critics."""
    encoder_hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the encoder."""
    next_observations: bool = False
    """Whether the encoder sees where a transition led, as it must where tasks differ in more than rewards."""
    kl_weight: float = 0.01
    """Of the divergence of a task's belief from the prior, beside the critics' loss."""
    discount: float = 0.9
    """Of rewards, per step."""
    learning_rate: float = 1e-3
    """Of all networks and of the temperature."""
    target_rate: float = 0.005
    """Share of the way that the target critics go to the critics at each step."""
    reward_scale: float = 5.0
    """Factor on rewards in the critics' targets; the encoder sees them as they are."""
    temperature: float | None = None
    """Weight of the entropy; learned, so that the entropy is minus the number of actions, if left out."""
    batch_size: int = 64
    """Transitions of each task in a gradient step."""
    context_size: int = 64
    """Transitions of each task that its belief is inferred from in a gradient step."""

    def __post_init__(self) -> None:
        check_positive(self, "latent", "learning_rate", "reward_scale", "temperature")
        check_positive(self, "batch_size", "context_size", "target_rate")
        check_at_least(self, 0, "kl_weight")
        check_fraction(self, "discount", "target_rate")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "PEARL"
