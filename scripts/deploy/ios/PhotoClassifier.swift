// Not compiled here. Classifies photos with a bundle's model.tflite in MediaPipe.
//
// Podfile: pod "MediaPipeTasksVision"; model.tflite in the app's bundle. The class names are in the
// file. Of a gray model: export it with --rgb.

import MediaPipeTasksVision
import UIKit

final class PhotoClassifier {
  private let classifier: ImageClassifier
  private let size: Double
  private let cropFraction: Double

  /// `size` and `cropFraction` are `image_size` and `resize.crop_fraction` of bundle.json.
  init(size: Int, cropFraction: Double) throws {
    let options = ImageClassifierOptions()
    options.baseOptions.modelAssetPath = Bundle.main.path(forResource: "model", ofType: "tflite")!
    options.maxResults = 5
    classifier = try ImageClassifier(options: options)
    self.size = Double(size)
    self.cropFraction = cropFraction
  }

  /// Returns the five most probable classes of an upright photo, the first one first.
  func classify(_ photo: UIImage) throws -> [(name: String, probability: Float)] {
    let pixels = CGSize(
      width: photo.size.width * photo.scale, height: photo.size.height * photo.scale)
    let result = try classifier.classify(
      image: MPImage(uiImage: photo), regionOfInterest: region(pixels))
    // the second head is the embedding
    let probabilities = result.classificationResult.classifications[0]
    return probabilities.categories.map { ($0.categoryName ?? "", $0.score) }
  }

  /// The part of a photo that the bundle's own resize keeps, in shares of its sides.
  private func region(_ pixels: CGSize) -> CGRect {
    let (width, height) = (Double(pixels.width), Double(pixels.height))
    let scale = min(width, height) / (size / cropFraction).rounded(.down)
    let left = ((width / scale - size) / 2).rounded(.toNearestOrEven) * scale / width
    let top = ((height / scale - size) / 2).rounded(.toNearestOrEven) * scale / height
    return CGRect(
      x: left, y: top, width: min(size * scale / width, 1 - left),
      height: min(size * scale / height, 1 - top))
  }
}
